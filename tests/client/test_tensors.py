import ml_dtypes
import numpy as np
import pytest
import redis
import safetensors.numpy

from redisai_py import errors

NUMERIC = ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool", "float16", "uint32"]
NUMERIC += ["uint64", ml_dtypes.bfloat16]


@pytest.fixture(params=["sidecar", "direct"])
def tensors(request, make_client, redis_url):
    """A client that reaches tensors through our server, and one that reads and writes Redis itself."""
    return make_client(direct=redis_url) if request.param == "direct" else make_client()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("dtype", NUMERIC)
def test_arrays_come_back_as_they_went(make_client, dtype, protocol):
    con = make_client(protocol=protocol)
    array = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    assert con.tensorset("x", array) == "OK"
    back = con.tensorget("x")
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    values = con.tensorget("x", as_numpy=False)
    assert values["shape"] == [2, 3]
    assert values["values"] == [0, 1, 1, 1, 0, 1]


def test_results_of_every_form(tensors):
    assert tensors.tensorset("x", np.array([[1, 2]], dtype="int16")) == "OK"
    assert tensors.tensorget("x").tolist() == [[1, 2]]
    assert tensors.tensorget("x", as_numpy=False) == {"dtype": "INT16", "shape": [1, 2], "values": [1, 2]}
    assert tensors.tensorget("x", meta_only=True) == {"dtype": "INT16", "shape": [1, 2]}
    assert tensors.tensorget("x", as_numpy=False, as_numpy_mutable=True)["values"] == [1, 2]


def test_arrays_are_read_only_unless_asked_otherwise(tensors):
    tensors.tensorset("x", np.zeros(3))
    read_only, writable = tensors.tensorget("x"), tensors.tensorget("x", as_numpy_mutable=True)
    with pytest.raises(ValueError, match="read-only"):
        read_only[0] = 1
    writable[0] = 1
    assert writable.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("values", "dtype", "name", "expected"),
    [
        ([2, 3], "float", "FLOAT", [2.0, 3.0]),
        ((2, 3), "double", "DOUBLE", [2.0, 3.0]),
        ([-1, 0, 127], "int8", "INT8", [-1, 0, 127]),
        ([True, False], "bool", "BOOL", [True, False]),
        ([0, 1], "bool", "BOOL", [False, True]),
        ([[1, 2], [3, 4]], "float", "FLOAT", [[1.0, 2.0], [3.0, 4.0]]),
        ([[-1], [2]], "int64", "INT64", [[-1], [2]]),
        (["a", "é", ""], "str", "STRING", ["a", "é", ""]),
        ([["a"], ["b"]], str, "STRING", [["a"], ["b"]]),
        ([b"x", 1], "<U5", "STRING", ["x", "1"]),
        ([1.5], np.float32, "FLOAT", [1.5]),
        ([1.5], "FLOAT", "FLOAT", [1.5]),
        ([np.float64(1.5), 2], "float16", "FLOAT16", [1.5, 2.0]),
        ([1, 2**64 - 1], "uint64", "UINT64", [1, 2**64 - 1]),
        ([1e39], "float", "FLOAT", [float("inf")]),
        (["1.5", float("inf"), "-2"], "double", "DOUBLE", [1.5, float("inf"), -2.0]),
    ],
)
def test_lists(tensors, values, dtype, name, expected):
    tensors.tensorset("x", values, dtype=dtype)
    assert tensors.tensorget("x", meta_only=True)["dtype"] == name
    assert tensors.tensorget("x").tolist() == expected


@pytest.mark.parametrize("dtype", ["float", "double", "float16", "bfloat16"])
def test_a_list_may_hold_nan(tensors, dtype):
    tensors.tensorset("x", [1.5, float("nan"), -2], dtype=dtype)
    assert str(tensors.tensorget("x").tolist()) == "[1.5, nan, -2.0]"


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [[1, 2, 3, 4]]])
def test_shape_of_a_list(tensors, values):
    for shape in ([2, 2], np.array([2, 2]), np.zeros((2, 2)).shape):
        tensors.tensorset("x", values, shape=shape, dtype="int32")
        assert tensors.tensorget("x").tolist() == [[1, 2], [3, 4]]
    tensors.tensorset("x", [5], shape=(), dtype="int32")
    assert tensors.tensorget("x").shape == ()


def test_shape_and_dtype_of_an_array_are_its_own(tensors):
    tensors.tensorset("x", np.array([1, 2]), shape=[9], dtype="int8")
    assert tensors.tensorget("x").dtype == np.int64


def test_arrays_of_strings(tensors):
    tensors.tensorset("x", np.array([["ab", ""], ["é", "x"]]))
    assert tensors.tensorget("x").tolist() == [["ab", ""], ["é", "x"]]
    assert tensors.tensorget("x", as_numpy=False)["values"] == ["ab", "", "é", "x"]
    tensors.tensorset("x", np.array(["a", b"b"], dtype=object))
    assert tensors.tensorget("x").tolist() == ["a", "b"]
    assert tensors.tensorget("x", as_numpy=False)["values"] == ["a", "b"]
    tensors.tensorset("x", [1.5], dtype="float")
    assert tensors.tensorget("x", as_numpy=False)["values"] == [1.5]


def test_arrays_of_other_layouts(tensors):
    tensors.tensorset("x", np.arange(6).reshape(2, 3).T)
    assert tensors.tensorget("x").tolist() == [[0, 3], [1, 4], [2, 5]]
    tensors.tensorset("x", np.array([1, 2], dtype=">i4"))
    assert tensors.tensorget("x").tolist() == [1, 2]
    tensors.tensorset("x", np.float32(2.5))
    assert tensors.tensorget("x") == np.float32(2.5)
    tensors.tensorset("x", np.array(1.5))
    assert tensors.tensorget("x").shape == ()


class WithArray:
    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 2.0])


class WithDLPack:
    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class WithInterface:
    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__
        self._array = array


class AskedByDLPackOnly(WithDLPack):
    def __array__(self, dtype=None, copy=None):
        raise TypeError("no implicit copies")


class WithoutDLPackForTexts:
    """As a tensor of TensorFlow, which says that it has DLPack, and ends the process when it is asked for texts."""

    def __array__(self, dtype=None, copy=None):
        return np.array([b"a", b"bc"], dtype=object)

    def __dlpack__(self, **options):
        raise SystemExit

    def __dlpack_device__(self):
        return (1, 0)


ARRAY = np.array([1.0, 2.0])


@pytest.mark.parametrize("value", [WithArray(), WithDLPack(ARRAY), WithInterface(ARRAY), AskedByDLPackOnly(ARRAY)])
def test_anything_with_an_array_inside(tensors, value):
    tensors.tensorset("x", value)
    assert tensors.tensorget("x").tolist() == [1.0, 2.0]


def test_anything_with_texts_inside(tensors):
    tensors.tensorset("x", WithoutDLPackForTexts())
    assert tensors.tensorget("x").tolist() == ["a", "bc"]


def test_images(tensors):
    image = pytest.importorskip("PIL.Image").new("RGB", (3, 2), (1, 2, 3))
    tensors.tensorset("x", image)
    assert tensors.tensorget("x").tolist() == [[[1, 2, 3]] * 3] * 2


def test_torch_tensors(tensors):
    torch = pytest.importorskip("torch")
    for value in (torch.tensor([[1.0, 2.0]], requires_grad=True), torch.arange(4).reshape(2, 2).t()):
        tensors.tensorset("x", value)
        assert tensors.tensorget("x").tolist() == value.tolist()
    tensors.tensorset("x", torch.tensor([1.0, -2.5], dtype=torch.bfloat16))
    assert tensors.tensorget("x").dtype == ml_dtypes.bfloat16
    assert tensors.tensorget("x").tolist() == [1.0, -2.5]
    dense = torch.ones(2, 2)
    for value in (dense.to_sparse(), torch.empty(2, device="meta"), dense.to(torch.float8_e4m3fn), dense.cfloat()):
        with pytest.raises(TypeError):
            tensors.tensorset("x", value)


def test_large_tensors(tensors):
    array = np.random.default_rng(1).random((300, 1000))
    tensors.tensorset("x", array)
    assert np.array_equal(tensors.tensorget("x"), array)


@pytest.mark.parametrize(
    ("args", "options", "error", "text"),
    [
        (([1],), {}, TypeError, r"tensorset\(\) missing argument 'dtype' or value of 'dtype' is None"),
        (([1],), {"dtype": "wrong"}, TypeError, "data type 'wrong' not understood"),
        (
            ([1],),
            {"dtype": "int"},
            TypeError,
            r"``int`` is not supported by RedisAI\. Currently supported types are \['f",
        ),
        (([1],), {"dtype": "complex64"}, TypeError, "``complex64`` is not supported by RedisAI"),
        (([1],), {"dtype": object}, TypeError, "is not supported by RedisAI"),
        (
            ({1},),
            {"dtype": "float"},
            TypeError,
            "``tensor`` argument must be a numpy array or a list or a tuple, but got",
        ),
        ((np.array([1j]),), {}, TypeError, "RedisAI doesn't support tensors of type complex128"),
        ((np.ma.masked_array([1, 2], [0, 1]),), {}, TypeError, "masked elements: fill them first"),
        ((np.array([1, "a"], dtype=object),), {}, TypeError, "RedisAI doesn't support tensors of type object"),
        (([[1.5]],), {"dtype": "int8"}, TypeError, "elements of a tensor of type INT8 must be integers"),
        (([[1], [1, 2]],), {"dtype": "float"}, ValueError, "inhomogeneous"),
        (([[-300]],), {"dtype": "int8"}, OverflowError, "-300"),
    ],
)
def test_errors_of_arguments(tensors, args, options, error, text):
    with pytest.raises(error, match=text):
        tensors.tensorset("x", *args, **options)


def test_words_that_do_not_fit_are_left_to_the_server(con):
    with pytest.raises(redis.ResponseError, match=r"^invalid value$"):
        con.tensorset("x", [256], dtype="uint8")
    with pytest.raises(redis.ResponseError, match=r"^invalid value$"):
        con.tensorset("x", [1.5], dtype="int8")
    with pytest.raises(redis.ResponseError, match=r"^wrong number of values was given in 'AI.TENSORSET' command$"):
        con.tensorset("x", [1, 2, 3], shape=[2], dtype="int8")


def test_direct_mode_checks_shapes_itself(make_client, redis_url):
    con = make_client(direct=redis_url)
    for values, shape in (([1, 2, 3], [2]), ([], None), ([1], [0])):
        with pytest.raises(ValueError, match="shape"):
            con.tensorset("x", values, shape=shape, dtype="int8")
    with pytest.raises(ValueError, match="shape"):
        con.tensorset("x", ["a\0b"], dtype="str")
    assert not con.exists("x")


def test_missing_and_wrong_keys(tensors, bare):
    with pytest.raises(errors.MissingKey) as caught:
        tensors.tensorget("absent")
    assert isinstance(caught.value, redis.ResponseError)
    assert str(caught.value) == "tensor key is empty or in a different shard"
    with pytest.raises(errors.MissingKey):
        tensors.tensorget("absent", meta_only=True)
    bare.hset("hash", "a", 1)
    bare.set("text", "no tensor")
    for key in ("hash", "text"):
        for options in ({}, {"meta_only": True}, {"as_numpy": False}):
            with pytest.raises(errors.WrongType, match=r"^WRONGTYPE Operation against a key holding") as caught:
                tensors.tensorget(key, **options)
            assert isinstance(caught.value, redis.ResponseError)


def test_direct_mode_and_the_sidecar_see_the_same_tensors(make_client, redis_url, bare):
    con, direct = make_client(), make_client(direct=redis_url)
    direct.tensorset("x", np.array([1.5, 2.5]))
    assert con.tensorget("x").tolist() == [1.5, 2.5]
    direct.tensorset("x", np.array([3.5]))
    assert con.tensorget("x").tolist() == [3.5]
    con.tensorset("x", np.array([4.5]))
    assert direct.tensorget("x").tolist() == [4.5]
    assert safetensors.numpy.load(bare.get("x"))["tensor"].tolist() == [4.5]


def test_direct_mode_does_not_ask_the_sidecar(make_client, redis_url):
    con = make_client(port=1, direct=redis_url)  # nobody listens there
    con.tensorset("x", np.array([1.5]))
    assert con.tensorget("x").tolist() == [1.5]


def test_replies_as_they_are(make_client):
    con = make_client(enable_postprocess=False)
    assert con.tensorset("x", np.array([1, 2], dtype="int8")) == b"OK"
    assert con.tensorget("x") == [b"dtype", b"INT8", b"shape", [2], b"blob", b"\1\2"]


def test_decoded_responses(make_client):
    con = make_client(decode_responses=True)
    array = np.array([200, 255], dtype="uint8")  # no UTF-8
    assert con.tensorset("x", array) == "OK"
    assert con.tensorget("x").tolist() == [200, 255]
    assert con.tensorget("x", as_numpy=False)["values"] == [200, 255]
    con.set("text", "é")
    assert con.get("text") == "é"
