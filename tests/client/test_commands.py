import numpy as np
import pytest
import redis

from redisai_py import errors
from scripts.make_models import build_onnx_add
from tests.support import long_model

SCRIPT = """
def double(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * 2

def add(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] + float(args[0]) + len(keys)

def plain(a, b):
    return a + b
"""

pytestmark = pytest.mark.filterwarnings("ignore:Experimental:UserWarning")


@pytest.fixture(scope="session")
def model():
    return build_onnx_add()


@pytest.fixture
def stored(con, model):
    """A client, with a model `sum` of two inputs, a script `lib`, and tensors `a` and `b`."""
    assert con.modelstore("sum", "ONNX", "cpu", model, tag="v7") == "OK"
    assert con.scriptstore("lib", "CPU", SCRIPT, ["double", "add"], tag="v2") == "OK"
    con.tensorset("a", np.array([[1, 2], [3, 4]], dtype=np.float32))
    con.tensorset("b", np.array([[2, 2], [2, 2]], dtype=np.float32))
    return con


def test_model(stored, model):
    meta = stored.modelget("sum", meta_only=True)
    assert meta.pop("inputs") == ["a", "b"]
    assert meta.pop("outputs") == ["c"]
    assert meta == {
        "backend": "ONNX",
        "device": "cpu",
        "tag": "v7",
        "batchsize": 0,
        "minbatchsize": 0,
        "minbatchtimeout": 0,
    }
    assert stored.modelget("sum")["blob"] == model
    assert stored.modelscan() == [["sum", "v7"]]
    assert stored.modelexecute("sum", ["a", "b"], "c") == "OK"
    assert stored.tensorget("c").tolist() == [[3, 4], [5, 6]]
    assert stored.modelexecute("sum", inputs=("a", "b"), outputs=["c"], timeout=1000) == "OK"
    info = stored.infoget("sum")
    assert (info["key"], info["type"], info["calls"], info["errors"]) == ("sum", "MODEL", 2, 0)
    assert stored.inforeset("sum") == "OK"
    assert stored.infoget("sum")["calls"] == 0
    assert stored.modeldel("sum") == "OK"
    with pytest.raises(errors.MissingKey, match=r"^model key is empty$"):
        stored.modelget("sum")


def test_batching_of_a_model(con, model):
    con.modelstore("m", "onnx", "CPU", bytearray(model), batch=4, minbatch=2, minbatchtimeout=9, tag="")
    meta = con.modelget("m", meta_only=True)
    assert (meta["batchsize"], meta["minbatchsize"], meta["minbatchtimeout"], meta["tag"]) == (4, 2, 9, "")


def test_model_from_a_file(con, model, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    assert con.modelstore("m", "ONNX", "CPU", path) == "OK"
    assert con.modelget("m")["blob"] == model


def test_chunks_of_a_long_model(con):
    model = long_model()
    con.modelstore("m", "ONNX", "CPU", model)
    size = con.config("MODEL_CHUNK_SIZE")
    assert con.config("MODEL_CHUNK_SIZE", 65536) == "OK"
    try:
        assert b"".join(con.modelget("m")["blob"]) == model
    finally:
        con.config("MODEL_CHUNK_SIZE", size)


def test_deprecated_model_commands(con, model):
    with pytest.warns(DeprecationWarning, match=r"method modelset\. \(Use modelstore instead\) -- Deprecated since"):
        assert con.modelset("m", "ONNX", "CPU", model, tag="t") == "OK"
    con.tensorset("a", [1.5, 2], shape=[1, 2], dtype="float")
    with pytest.warns(DeprecationWarning, match=r"Call to deprecated method modelrun"):
        assert con.modelrun("m", ["a", "a"], "b") == "OK"
    assert con.tensorget("b").tolist() == [[3, 4]]


def test_script(stored):
    assert stored.scriptget("lib", meta_only=True) == {
        "device": "CPU",
        "tag": "v2",
        "entry points": [b"double", b"add"],
    }
    assert stored.scriptget("lib")["source"] == SCRIPT
    assert stored.scriptscan() == [["lib", "v2"]]
    assert stored.scriptexecute("lib", "double", inputs="a", outputs="c") == "OK"
    assert stored.tensorget("c").tolist() == [[2, 4], [6, 8]]
    assert stored.scriptexecute("lib", "add", keys=["k"], inputs=["a"], args=[0.5], outputs=["c"], timeout=5000) == "OK"
    assert stored.tensorget("c").tolist() == [[2.5, 3.5], [4.5, 5.5]]
    with pytest.warns(DeprecationWarning, match=r"Call to deprecated method scriptrun"):
        assert stored.scriptrun("lib", "plain", ["a", "b"], "c") == "OK"
    assert stored.tensorget("c").tolist() == [[3, 4], [5, 6]]
    assert stored.scriptdel("lib") == "OK"
    with pytest.raises(errors.MissingKey, match=r"^script key is empty$"):
        stored.scriptdel("lib")


def test_deprecated_script_command(con):
    with pytest.warns(DeprecationWarning, match=r"Call to deprecated method scriptset"):
        assert con.scriptset("old", "CPU", "def f(x):\n    return x\n", tag="t") == "OK"
    assert con.scriptget("old", meta_only=True) == {"device": "CPU", "tag": "t", "entry points": []}


def test_settings(con):
    assert con.config("MODEL_CHUNK_SIZE") == 535822336
    assert con.config("NO_SUCH_SETTING") is None
    assert isinstance(con.config("BACKENDSPATH"), str)
    with pytest.raises(redis.ResponseError, match=r"^MODEL_CHUNK_SIZE: invalid chunk size$"):
        con.config("MODEL_CHUNK_SIZE", 0)
    with pytest.raises(redis.ResponseError, match=r"^unsupported backend$"):
        con.loadbackend("NOPE", "a path with blanks")
    with pytest.raises(errors.MissingKey, match=r"^cannot find run info for key$"):
        con.infoget("absent")


def test_dag(stored):
    dag = stored.dag(load=["a"], persist="r", timeout=2000)
    dag.tensorset("b", [2, 2, 2, 2], shape=[2, 2], dtype="float").modelexecute("sum", ["a", "b"], "m")
    dag.scriptexecute("lib", "add", inputs="m", args="1", outputs="r")
    dag.tensorget("r").tensorget("r", as_numpy_mutable=True).tensorget("r", meta_only=True)
    dag.tensorget("r", as_numpy=False)
    expected = [[4, 5], [6, 7]]
    for _ in range(2):
        *oks, array, mutable, meta, values = dag.execute()
        assert oks == ["OK", "OK", "OK"]
        assert array.tolist() == mutable.tolist() == expected
        assert mutable.flags.writeable
        assert meta == {"dtype": "FLOAT", "shape": [2, 2]}
        assert values == {"dtype": "FLOAT", "shape": [2, 2], "values": [4.0, 5.0, 6.0, 7.0]}
    assert stored.tensorget("r").tolist() == expected


def test_failures_in_a_dag_are_elements(stored):
    dag = stored.dag(routing="x").tensorset("wrong", [1, 2, 3], dtype="float").tensorset("a", [1], dtype="int64")
    dag.modelexecute("sum", ["wrong", "a"], "r").tensorget("r").tensorget("a")
    ok1, ok2, error, absent, array = dag.execute()
    assert (ok1, ok2, absent, array.tolist()) == ("OK", "OK", "NA", [1])
    assert isinstance(error, redis.ResponseError)


def test_a_key_that_cannot_be_persisted_is_one_more_element(stored, bare):
    bare.hset("hash", "a", 1)
    results = stored.dag(load="a", persist="hash").tensorset("hash", [1], dtype="int8").execute()
    assert results[0] == "OK"
    assert isinstance(results[1], errors.WrongType)
    assert isinstance(results[1], redis.ResponseError)


def test_a_dag_that_is_refused(stored):
    with pytest.raises(redis.ResponseError, match=r"^INPUT key cannot be found in DAG$"):
        stored.dag(routing="r").tensorget("a").execute()
    with pytest.raises(errors.MissingKey):
        stored.dag(load="absent").tensorget("absent").execute()


@pytest.mark.filterwarnings("ignore:Creating Dag:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")
def test_deprecated_dag(stored):
    dag = stored.dag().tensorset("x", [[1, 2]], dtype="float").modelrun("sum", ["x", "x"], "y").tensorget("y")
    assert dag.run()[2].tolist() == [[2, 4]]
    readonly = stored.dag(load="a", readonly=True).modelrun("sum", ["a", "a"], "y").tensorget("y")
    assert readonly.execute()[1].tolist() == [[2, 4], [6, 8]]


def test_expiry_of_what_a_dag_persists(stored, bare):
    stored.dag(load="a", persist="r", ex=100).modelexecute("sum", ["a", "a"], "r").execute()
    assert 0 < bare.ttl("r") <= 100
    stored.dag(load="a", persist="r", keepttl=True).modelexecute("sum", ["a", "a"], "r").execute()
    assert 0 < bare.ttl("r") <= 100
    stored.dag(load="a", persist="a", ifunchanged=True).modelexecute("sum", ["a", "a"], "a").execute()
    assert stored.tensorget("a").tolist() == [[2, 4], [6, 8]]


def test_results_of_a_dag_are_converted_whatever_the_client_says(make_client):
    con = make_client(enable_postprocess=False)
    con.tensorset("a", [1], dtype="int8")
    assert con.dag(load="a").tensorget("a").execute()[0].tolist() == [1]


@pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning")
def test_decoded_responses(make_client, model):
    con = make_client(decode_responses=True)
    con.modelstore("sum", "ONNX", "CPU", model)
    assert con.modelget("sum")["blob"] == model
    assert con.modelget("sum", meta_only=True)["inputs"] == ["a", "b"]
    assert con.modelscan() == [["sum", ""]]
    con.tensorset("a", [[200, 1]], dtype="float")
    assert con.dag(load="a").modelexecute("sum", ["a", "a"], "b").tensorget("b").execute()[1].tolist() == [[400, 2]]
