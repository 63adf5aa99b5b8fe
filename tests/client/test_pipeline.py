import numpy as np
import pytest
import redis

from redisai_py import errors


@pytest.mark.parametrize("transaction", [True, False])
@pytest.mark.parametrize("options", [{}, {"decode_responses": True}, {"protocol": 2, "decode_responses": True}])
def test_native_and_tensor_commands_together(make_client, transaction, options):
    con = make_client(**options)
    con.rpush("list", *"abcd")
    text = (lambda value: value) if options else str.encode
    pipe = con.pipeline(transaction=transaction)
    pipe.tensorset("a", np.array([1, 255], dtype="uint8")).set("n", 1).tensorget("a")
    pipe.lrange("list", 0, -1).tensorget("a", meta_only=True).get("n").tensorget("a", as_numpy=False)
    ok, was_set, array, listed, meta, number, values = pipe.execute()
    assert ok == b"OK"
    assert was_set is True
    assert array.tolist() == [1, 255]
    assert listed == [text(item) for item in "abcd"]
    assert meta == {"dtype": "UINT8", "shape": [2]}
    assert number == text("1")
    assert values["values"] == [1, 255]


def test_a_pipeline_can_be_used_again(con):
    pipe = con.pipeline()
    pipe.tensorset("a", [1], dtype="int8").tensorget("a")
    assert pipe.execute()[1].tolist() == [1]
    pipe.rpush("list", *"abcde").lrange("list", 0, -1)
    assert pipe.execute() == [5, [b"a", b"b", b"c", b"d", b"e"]]
    pipe.tensorget("a")
    assert pipe.execute()[0].tolist() == [1]


@pytest.mark.parametrize("transaction", [True, False])
def test_errors(con, transaction):
    pipe = con.pipeline(transaction=transaction)
    pipe.tensorget("absent").set("n", 1)
    missing, was_set = pipe.execute(raise_on_error=False)
    assert isinstance(missing, errors.MissingKey)
    assert was_set is True
    pipe.tensorget("absent")
    with pytest.raises(redis.ResponseError, match="tensor key is empty or in a different shard"):
        pipe.execute()


def test_runs_in_a_pipeline_without_a_transaction(con):
    con.scriptstore("s", "CPU", "def f(t: List[Tensor], k: List[str], a: List[str]):\n    return t[0] + 1\n", "f")
    con.tensorset("a", [1], dtype="float")
    pipe = con.pipeline(transaction=False)
    pipe.scriptexecute("s", "f", inputs="a", outputs="a").scriptexecute("s", "f", inputs="a", outputs="a").tensorget(
        "a"
    )
    pipe.modelexecute("absent", "a", "b")
    *oks, array, error = pipe.execute(raise_on_error=False)
    assert oks == ["OK", "OK"]
    assert array.tolist() == [3.0]
    assert isinstance(error, errors.MissingKey)


def test_after_watch_commands_run_at_once(con):
    con.tensorset("a", [1], dtype="int8")
    pipe = con.pipeline()
    pipe.watch("a")
    assert pipe.tensorget("a").tolist() == [1]
    pipe.multi()
    pipe.tensorset("a", [2], dtype="int8")
    assert pipe.execute() == [b"OK"]
    assert con.tensorget("a").tolist() == [2]


def test_a_watched_key_that_changed(con):
    con.tensorset("a", [1], dtype="int8")
    pipe = con.pipeline()
    pipe.watch("a")
    con.tensorset("a", [3], dtype="int8")
    pipe.multi()
    pipe.tensorset("a", [2], dtype="int8")
    with pytest.raises(redis.WatchError):
        pipe.execute()
    assert con.tensorget("a").tolist() == [3]
