"""A program written for the `redisai` package; run with either package it must print the same.

python drop_in_script.py redisai|redisai_py PORT
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from typing import Any

import numpy as np

SCRIPT = """
def double(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * 2

def plain(a, b):
    return a + b
"""
results: list[Any] = []


def show(value: Any) -> Any:
    """A result as JSON, with the types that make a difference."""
    if isinstance(value, np.ndarray):
        return ["array", str(value.dtype), value.tolist(), bool(value.flags.writeable)]
    if isinstance(value, (bytes, memoryview)):  # a Dag's commands hold one or the other
        return ["bytes", bytes(value).decode("latin-1")]
    if isinstance(value, dict):
        return {key: show(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(show, value)]
    return value


def record(function: Any, *args: Any, **options: Any) -> None:
    """Call, and keep the result, the error, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = show(function(*args, **options))
        except Exception as error:
            kinds = [
                kind.__name__ for kind in type(error).__mro__ if kind.__module__ in ("builtins", "redis.exceptions")
            ]
            result = ["raised", kinds[0], str(error).split("{")[0]]
    ours = [str(w.message) for w in caught if "redis" in str(w.message).lower() or "deprecated" in str(w.message)]
    results.append([getattr(function, "__name__", "?"), result, ours])


def tensors(con: Any) -> None:
    """tensorset, tensorget."""
    for dtype in ("float", "double", "float32", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool"):
        record(con.tensorset, "x", [0, 1, 1], dtype=dtype)
        record(con.tensorget, "x")
        record(con.tensorget, "x", as_numpy=False)
    record(con.tensorset, "x", (1, 2, 3, 4), shape=(2, 2), dtype="float")
    record(con.tensorget, "x", meta_only=True)
    for array in (np.arange(6, dtype="int16").reshape(2, 3), np.array(1.5), np.array([["é", "b"]]), np.array([True])):
        record(con.tensorset, "x", array)
        record(con.tensorget, "x")
        record(con.tensorget, "x", as_numpy=False)
    record(con.tensorset, "s", ["ab", "cd"], dtype="str")
    record(con.tensorget, "s")
    for arguments in (([1],), ({1},), (np.array([1j]),)):
        record(con.tensorset, "x", *arguments)
    for dtype in ("wrong", None):
        record(con.tensorset, "x", [1], dtype=dtype)
    record(con.tensorset, "x", [256], dtype="uint8")
    record(con.tensorset, "x", [1, 2], shape=[3], dtype="uint8")
    record(con.tensorget, "absent")
    record(con.set, "text", "value")
    record(con.tensorget, "text")


def models(con: Any, model: bytes) -> None:
    """model*, info*, config."""
    record(con.modelstore, "m", "ONNX", "cpu", model, tag="v7", batch=8, minbatch=1)
    record(con.modelget, "m")
    record(con.modelget, "m", meta_only=True)
    record(con.modelscan)
    con.tensorset("a", np.array([[1, 2]], dtype="float32"))
    record(con.modelexecute, "m", ["a", "a"], "c")
    record(con.modelexecute, "m", ("a", "a"), ("c",), timeout=5000)
    record(con.tensorget, "c")
    record(con.modelrun, "m", ["a", "a"], "c")
    record(con.modelexecute, "m", "a", "c")
    record(con.modelexecute, "m", None, "c")
    record(con.modelset, "old", "ONNX", "CPU", model)
    for options in ({"minbatch": 1}, {"inputs": "a"}, {"batch": 1, "minbatchtimeout": 2}):
        record(con.modelstore, "m", "ONNX", "cpu", model, **options)
    record(con.modelstore, "m", "ONNX", "tpu", model)
    record(con.modelstore, "m", "NOPE", "cpu", model)
    record(con.modelstore, "m", "TF", "cpu", model)
    record(lambda: {k: v for k, v in con.infoget("m").items() if k != "duration"})
    record(con.inforeset, "m")
    record(con.infoget, "absent")
    record(con.modeldel, "m")
    record(con.modeldel, "m")
    record(con.config, "MODEL_CHUNK_SIZE")
    record(con.config, "MODEL_CHUNK_SIZE", 535822336)
    record(con.config, "NOTHING")
    record(con.loadbackend, "NOPE", "path")


def scripts(con: Any) -> None:
    """script*."""
    record(con.scriptstore, "s", "cpu", SCRIPT, ["double"], tag="t")
    record(con.scriptget, "s")
    record(con.scriptget, "s", meta_only=True)
    record(con.scriptscan)
    record(con.scriptexecute, "s", "double", inputs="a", outputs=["b"])
    record(con.tensorget, "b")
    record(con.scriptexecute, "s", "double")
    record(con.scriptrun, "s", "plain", ["a", "b"], "c")
    record(con.scriptset, "old", "cpu", SCRIPT)
    record(con.scriptstore, "s", "cpu", "return 1", "f")
    record(con.scriptstore, "s", "cpu", "return 1", None)
    record(con.scriptdel, "s")
    record(con.scriptexecute, "s", "double", inputs="a")


def several(con: Any, model: bytes) -> None:
    """dag, pipeline."""
    con.modelstore("m", "ONNX", "CPU", model)
    dag = con.dag(load=["a"], persist="r", timeout=9000)
    dag.tensorset("b", np.ones((1, 2), dtype="float32")).modelexecute("m", ["a", "b"], "r")
    dag.tensorget("r").tensorget("r", as_numpy=False)
    results.append(show(dag.commands))
    record(dag.execute)
    record(dag.run)
    record(con.tensorget, "r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = con.dag().tensorset("x", [1, 2], dtype="double").tensorget("x").modelrun("m", ["x", "x"], "y")
    results.append(show(old.commands))
    record(con.dag(load="a", readonly=True).modelexecute("m", ["a", "a"], "y").tensorget("y").execute)
    record(con.dag, load="a", persist="b", readonly=True)
    record(con.dag(routing="x").tensorget("absent").execute)
    for transaction in (True, False):
        pipe = con.pipeline(transaction=transaction)
        pipe.tensorset("p", [1, 2], dtype="float").set("n", 1).tensorget("p").tensorget("p", meta_only=True)
        record(pipe.execute)


def main() -> None:
    """Run everything on an empty database and print the results."""
    client = importlib.import_module(sys.argv[1]).Client
    model = sys.stdin.buffer.read()
    con = client(port=int(sys.argv[2]))
    con.flushall()
    tensors(con)
    models(con, model)
    scripts(con)
    several(con, model)
    raw = client(enable_postprocess=False, port=int(sys.argv[2]))
    record(raw.tensorset, "x", [1], dtype="int8")
    record(raw.tensorget, "x")
    debug = client(True, port=int(sys.argv[2]))
    debug.tensorset("x", [2, 3], dtype="float")
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
