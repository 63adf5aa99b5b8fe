from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import redis
from safetensors.numpy import save_file

from redisai_py.cli.files.tensors import converted, read_tensor, write_tensor
from tests.cli.conftest import Redisai

RNG = np.random.default_rng(0)
ARRAYS = {
    "float": RNG.standard_normal((2, 3)).astype(np.float32),
    "double": RNG.standard_normal(5),
    "int8": np.array([[-128], [127]], np.int8),
    "uint64": np.array([2**64 - 1, 0], np.uint64),
    "bool": np.array([True, False]),
    "float16": np.ones((1, 2, 3, 4), np.float16),
    "bfloat16": np.array([1.5, -2], ml_dtypes.bfloat16),
    "string": np.array([["a", ""], ["é", "long text"]]),
    "scalar": np.array(3.5, np.float32),
    "transposed": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    "big endian": np.array([1, 2, 3], ">i4"),
}


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("name", [name for name in ARRAYS])
def test_a_tensor_goes_in_and_comes_out(redisai: Redisai, con: Any, tmp_path: Path, name: str, suffix: str) -> None:
    array = ARRAYS[name]
    if suffix == ".npy":
        if name == "bfloat16":
            pytest.skip(".npy has no bfloat16")
        np.save(tmp_path / "in.npy", array)
    else:
        write_tensor(tmp_path / "in.safetensors", array)
    stored = redisai("tensor", "put", "t", tmp_path / f"in{suffix}")
    assert stored.code == 0, stored.stderr
    np.testing.assert_array_equal(con.tensorget("t"), array)
    assert redisai("tensor", "get", "t", tmp_path / f"out{suffix}").code == 0
    result = read_tensor(tmp_path / f"out{suffix}")
    np.testing.assert_array_equal(result, array)
    assert result.shape == array.shape
    assert result.dtype == array.dtype.newbyteorder("=")


def test_a_file_that_was_written_is_one_that_others_read(redisai: Redisai, con: Any, tmp_path: Path) -> None:
    con.tensorset("t", ARRAYS["float"])
    redisai("tensor", "get", "t", tmp_path / "t.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), ARRAYS["float"])


def test_a_tensor_is_printed_for_people_and_for_programs(redisai: Redisai, con: Any) -> None:
    con.tensorset("t", np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float32))
    assert redisai("tensor", "get", "t").stdout == "FLOAT [2, 2]\n[[ 1.5,  nan],\n [ inf, -inf]]\n"
    assert redisai("tensor", "get", "t", "--json").document == {
        "key": "t",
        "dtype": "FLOAT",
        "shape": [2, 2],
        "values": [[1.5, "nan"], ["inf", "-inf"]],
    }
    con.tensorset("t", np.array([2**64 - 1], np.uint64))
    assert redisai("tensor", "get", "t", "--json").document["values"] == [2**64 - 1]
    con.tensorset("t", ["a", "\x1b"], dtype="str")
    assert redisai("tensor", "get", "t", "--json").document["values"] == ["a", "\x1b"]
    assert "\x1b" not in redisai("tensor", "get", "t").stdout
    con.tensorset("t", np.array([1.5], ml_dtypes.bfloat16))
    assert redisai("tensor", "get", "t", "--json").document["values"] == [1.5]
    con.tensorset("t", np.zeros((1000, 1000), np.uint8))
    assert len(redisai("tensor", "get", "t").stdout) < 1000


def test_a_file_with_several_tensors_needs_a_name(redisai: Redisai, con: Any, tmp_path: Path) -> None:
    save_file({"w": np.ones(2), "b": np.zeros(3)}, tmp_path / "two.safetensors")
    refused = redisai("tensor", "put", "t", tmp_path / "two.safetensors")
    assert refused.code == 2
    assert "b, w" in refused.stderr
    assert redisai("tensor", "put", "t", tmp_path / "two.safetensors", "--name", "w").code == 0
    np.testing.assert_array_equal(con.tensorget("t"), np.ones(2))
    assert redisai("tensor", "put", "t", tmp_path / "two.safetensors", "--name", "v").code == 2


def test_an_image_becomes_a_tensor_and_an_image_again(redisai: Redisai, con: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = RNG.integers(0, 256, (2, 4, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "p.png")
    expected = {
        None: pixels,
        "hwc": pixels,
        "chw": pixels.transpose(2, 0, 1),
        "nhwc": pixels[None],
        "nchw": pixels.transpose(2, 0, 1)[None],
    }
    for layout, array in expected.items():
        options = ("--layout", layout) if layout else ()
        assert redisai("tensor", "put", "t", tmp_path / "p.png", *options).code == 0
        np.testing.assert_array_equal(con.tensorget("t"), array)
        assert redisai("tensor", "get", "t", tmp_path / "q.png", *options).code == 0
        np.testing.assert_array_equal(np.asarray(image.open(tmp_path / "q.png")), pixels)
    done = redisai("tensor", "put", "t", tmp_path / "p.png", "--size", "8x6", "--dtype", "float")
    assert done.stdout == "t: FLOAT [6, 8, 3], 576 B\n"


def test_images_of_other_kinds(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    grey = RNG.integers(0, 256, (3, 2), dtype=np.uint8)
    image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_tensor(tmp_path / "grey.png"), grey)
    assert read_tensor(tmp_path / "grey.png", layout="nchw").shape == (1, 1, 3, 2)
    write_tensor(tmp_path / "again.png", grey[..., None])
    np.testing.assert_array_equal(read_tensor(tmp_path / "again.png"), grey)
    image.fromarray(grey).convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read_tensor(tmp_path / "bits.png"))) <= {0, 255}
    image.new("P", (2, 3)).save(tmp_path / "palette.png")
    assert read_tensor(tmp_path / "palette.png").shape == (3, 2, 3)
    image.new("CMYK", (2, 3)).save(tmp_path / "print.jpg")
    assert read_tensor(tmp_path / "print.jpg").shape == (3, 2, 3)
    deep = np.array([[0, 65535]], np.uint16)
    image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_tensor(tmp_path / "deep.png"), deep)
    turned = image.Exif()
    turned[0x0112] = 6  # held on its side
    image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=turned)
    assert read_tensor(tmp_path / "turned.jpg").shape == (4, 2, 3)


def test_an_image_without_pillow_is_an_error_that_says_what_to_install(
    redisai: Redisai, con: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.png").write_bytes(b"whatever")
    con.tensorset("t", np.zeros((2, 2), np.uint8))
    monkeypatch.setitem(sys.modules, "PIL", None)
    for arguments in (("put", "t", tmp_path / "p.png"), ("get", "t", tmp_path / "q.png")):
        refused = redisai("tensor", *arguments)
        assert refused.code == 2
        assert "pip install pillow" in refused.stderr


@pytest.mark.parametrize(
    ("name", "content", "options", "reason"),
    [
        ("t.txt", b"1 2", (), ".safetensors"),
        ("t.npy", b"not numpy", (), "not an .npy file"),
        ("t.npy", b"", (), "not an .npy file"),
        ("t.npy", b"\x93NUMPY\x01", (), "t.npy"),
        ("t.npy", np.array([{}], object), (), "objects"),
        ("t.npy", np.ones(2, complex), (), "complex128"),
        ("t.npy", np.ones((0, 2)), (), "no elements"),
        ("t.npy", np.ones(2), ("--dtype", "quad"), "quad"),
        ("t.npy", np.array([1.5]), ("--dtype", "int8"), "INT8"),
        ("t.npy", np.array([300]), ("--dtype", "uint8"), "UINT8"),
        ("t.npy", np.array(["a"]), ("--dtype", "float"), "could not convert"),
        ("t.npy", np.ones(2), ("--size", "2x2"), "for images"),
        ("t.npy", np.ones(2), ("--name", "w"), "safetensors"),
        ("t.safetensors", b"{}", (), "t.safetensors"),
        ("t.png", b"not an image", (), "cannot read this image"),
        ("t.png", b"", ("--size", "0x2"), "--size"),
        ("t.png", b"", ("--layout", "cwh"), "--layout"),
    ],
)
def test_what_is_no_tensor_is_said_before_anything_is_sent(
    redisai: Redisai,
    bare: redis.Redis,
    tmp_path: Path,
    name: str,
    content: Any,
    options: tuple[object, ...],
    reason: str,
) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    refused = redisai("tensor", "put", "t", path, *options)
    assert refused.code == 2
    assert reason in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert bare.dbsize() == 0


@pytest.mark.parametrize(
    ("array", "name", "reason"),
    [
        (np.ones((2, 2), np.float32), "t.png", "uint8"),
        (np.ones((2, 2, 5), np.uint8), "t.png", "channels"),
        (np.ones((2, 2, 4), np.uint8), "t.jpg", "JPEG"),
        (np.ones(2, ml_dtypes.bfloat16), "t.npy", "bfloat16"),
        (np.ones(2), "t.csv", ".npy"),
        (np.ones(2), "t.npy --layout chw", "for images"),
    ],
)
def test_a_tensor_that_a_format_cannot_hold_leaves_the_file_alone(
    redisai: Redisai, con: Any, tmp_path: Path, array: Any, name: str, reason: str
) -> None:
    name, *options = name.split()
    (tmp_path / name).write_bytes(b"before")
    con.tensorset("t", array)
    refused = redisai("tensor", "get", "t", tmp_path / name, *options)
    assert refused.code == 2
    assert reason in refused.stderr
    assert (tmp_path / name).read_bytes() == b"before"


def test_a_failed_read_leaves_the_file_alone(redisai: Redisai, tmp_path: Path) -> None:
    (tmp_path / "t.npy").write_bytes(b"before")
    refused = redisai("tensor", "get", "absent", tmp_path / "t.npy")
    assert refused.code == 1
    assert refused.stderr == "redisai: tensor key is empty or in a different shard\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.npy"]
    assert (tmp_path / "t.npy").read_bytes() == b"before"


def test_a_layout_without_an_image_is_refused(redisai: Redisai, con: Any) -> None:
    con.tensorset("t", np.ones((3, 2, 2)))
    refused = redisai("tensor", "get", "t", "--layout", "chw")
    assert (refused.code, refused.stdout) == (2, "")
    assert "for images" in refused.stderr


def test_a_key_of_another_kind_is_left_alone(redisai: Redisai, bare: redis.Redis, x: Path) -> None:
    bare.set("t", "text")
    refused = redisai("tensor", "put", "t", x)
    assert refused.code == 1
    assert refused.stderr.startswith("redisai: WRONGTYPE")
    assert bare.get("t") == b"text"


def test_conversions_keep_values() -> None:
    np.testing.assert_array_equal(converted(np.array([1.0, 0.0]), "bool", "t"), [True, False])
    np.testing.assert_array_equal(converted(np.array([1, 2], np.int64), "float", "t"), np.array([1, 2], np.float32))
    np.testing.assert_array_equal(converted(np.array([1, 2]), "string", "t"), ["1", "2"])
    assert converted(np.array([0.1]), "bfloat16", "t").dtype == ml_dtypes.bfloat16
