"""Keys that come and go under a load of commands: every error is one that the keys' history explains.

A key here holds a tensor, or a model, or a script, or nothing, and never anything else: so no command may answer
WRONGTYPE, whatever it meets on its way. (`test_key_races` has each place where that could happen by itself.)
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hiredis
import numpy as np
import pytest
import redis

from scripts import make_models
from tests.fault.hammering import Duration, do_together
from tests.support import FrontDoor, RedisServer
from tests.wire import Wire, value

_SECONDS = 4
_ENOUGH = 500  # commands
_ROWS = 20_000  # of a large tensor, which travels another way
_MODEL = make_models.build_onnx_mul()
_SCRIPT = "def double(inputs: List[Tensor], keys: List[str], args: List[str]):\n    return 2 * inputs[0]\n"
_BLOBS = {rows: np.ones((rows, 2), np.float32).tobytes() for rows in (1, _ROWS)}
_TENSORS = ("t0", "t1", "t2")
_MODELS = ("m0", "m1")
_LAWFUL = (
    "ERR tensor key is empty",
    "ERR model key is empty",
    "ERR script key is empty",
    "ERR cannot find run info for key",
    "ERR no such key",  # RENAME
    "ERR Redis forgot the tensor script",  # within a pipeline
    "ERR the keys changed repeatedly",  # a large DAG
    "CONFLICT",
)
Argv = tuple[Any, ...]


def _command(rng: random.Random) -> Argv:
    tensor, other, model = rng.choice(_TENSORS), rng.choice(_TENSORS), rng.choice(_MODELS)
    rows = rng.choice((1, 1, 1, 1, _ROWS))
    store = ("AI.TENSORSET", tensor, "FLOAT", rows, 2, "BLOB", _BLOBS[rows])
    run = ("AI.MODELEXECUTE", model, "INPUTS", 1, tensor, "OUTPUTS", 1, other)
    run_script = ("AI.SCRIPTEXECUTE", "s", "double", "INPUTS", 1, tensor, "OUTPUTS", 1, other)
    return rng.choice(
        [
            store,
            ("AI.TENSORGET", tensor, "META"),
            ("AI.TENSORGET", tensor, "BLOB"),
            run,
            run_script,
            ("AI.DAGEXECUTE", "LOAD", 1, tensor, "PERSIST", 1, other, "|>", *run),
            ("AI.DAGEXECUTE", "LOAD", 1, tensor, "PERSIST", 1, other, "|>", *run_script),
            ("AI.DAGEXECUTE", "LOAD", 2, tensor, other, "PERSIST", 1, other, "IFUNCHANGED", "|>", *run),
            ("AI.DAGEXECUTE", "PERSIST", 1, tensor, "|>", *store),
            ("AI.DAGEXECUTE_RO", "LOAD", 1, tensor, "|>", *run, "|>", "AI.TENSORGET", other, "META"),
            ("AI.MODELGET", model, "META"),
            ("AI.MODELGET", model, "BLOB"),
            ("AI.MODELSTORE", model, "ONNX", "CPU", "BATCHSIZE", 4, "BLOB", _MODEL),
            ("AI.MODELDEL", model),
            ("AI.SCRIPTGET", "s", "META"),
            ("AI.INFO", model),
            ("AI._MODELSCAN",),
            ("DEL", tensor),
            ("RENAME", tensor, other),
        ]
    )


def _pipeline(rng: random.Random) -> list[Argv]:
    if rng.random() < 0.1:
        inside = [("AI.TENSORSET", "t0", "FLOAT", 1, 2, "BLOB", _BLOBS[1]), ("AI.TENSORGET", "t1", "BLOB")]
        return [("MULTI",), *inside, ("AI.MODELGET", "m0", "META"), ("EXEC",)]
    return [_command(rng) for _ in range(rng.choice((1, 1, 1, 2, 5, 20)))]


def _unlawful(reply: Any) -> Iterator[str]:
    if isinstance(reply, list):
        for item in reply:
            yield from _unlawful(item)
    elif isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(_LAWFUL):
        yield str(reply)


class _Churn:
    """Threads that write and delete until the time is over, and what they met."""

    def __init__(self, redis_port: int, port: int, scripting: bool) -> None:
        self.unlawful: Counter[str] = Counter()
        self.replies: Counter[str] = Counter()
        self._redis_port = redis_port
        self._port = port
        self._scripting = scripting
        self._time = Duration(_SECONDS, lambda: sum(list(self.replies.values())) > _ENOUGH)

    def run(self) -> None:
        """Raises what a thread raised."""
        do_together([*[self._ask] * 6, *[self._meddle] * 2], [])

    def _ask(self, rng: random.Random) -> None:
        with Wire(self._port) as client:
            if not self._scripting:
                assert client("AUTH", "plain", "any") == b"OK"
            while not self._time.is_over:
                commands = _pipeline(rng)
                mark = str(rng.random())
                *replies, echoed = client.pipeline([*commands, ("ECHO", mark)])
                assert echoed == mark.encode(), "a reply was lost or came twice"
                for argv, reply in zip(commands, replies, strict=True):
                    self.replies[argv[0]] += 1
                    self.unlawful.update(f"{argv[:4]}: {text}" for text in _unlawful(reply))

    def _meddle(self, rng: random.Random) -> None:
        small, large = value(1), value(1, _ROWS)
        with redis.Redis(port=self._redis_port) as bare:
            while not self._time.is_over:
                kind, tensor = rng.random(), rng.choice(_TENSORS)
                if kind < 0.35:
                    bare.delete(tensor)
                elif kind < 0.7:
                    bare.set(tensor, small, px=rng.choice((None, 3)))
                elif kind < 0.75:
                    bare.set(tensor, large)
                elif kind < 0.8:
                    bare.copy("script", "s", replace=True)
                elif kind < 0.98:
                    bare.delete(rng.choice((*_MODELS, "s")))
                else:
                    bare.script_flush()
                time.sleep(rng.random() * 0.003)  # else nothing is there for long enough to be looked at


@pytest.mark.parametrize("scripting", [True, False], ids=["scripts", "no-scripts"])
@pytest.mark.filterwarnings("error")
def test_no_command_tells_of_a_type_that_no_key_had(
    front_door: FrontDoor, redis_server: RedisServer, bare: redis.Redis, scripting: bool
) -> None:
    bare.acl_setuser("plain", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-@scripting"])
    with Wire(front_door.port) as client:
        source = ("AI.SCRIPTSTORE", "script", "CPU", "ENTRY_POINTS", "1", "double", "SOURCE", _SCRIPT)
        assert client(*source) == b"OK"
    churn = _Churn(redis_server.port, front_door.port, scripting)
    churn.run()
    bare.acl_deluser("plain")
    assert not churn.unlawful
    assert churn.replies.total() > _ENOUGH
    assert set(churn.replies) > {"AI.TENSORGET", "AI.MODELEXECUTE", "AI.DAGEXECUTE", "AI.SCRIPTEXECUTE", "EXEC"}
