"""Redis forgets its scripts (SCRIPT FLUSH) while clients write tensors."""

from __future__ import annotations

import redis

from tests.conformance.conversation import talk
from tests.support import FrontDoor

FORGOTTEN = "-ERR Redis forgot the tensor script (SCRIPT FLUSH); nothing was written, try again"


def test_one_command_at_a_time(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given("AI.MODELSTORE m ONNX CPU BLOB <onnx_mul>", "AI.TENSORSET t FLOAT 1 2 VALUES 1 2")
        dag = "AI.DAGEXECUTE LOAD 1 t PERSIST 1 v |> AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 v"
        for command, reply in (
            ("AI.TENSORSET t FLOAT 1 2 VALUES 1 2", "+OK"),
            ("AI.MODELEXECUTE m INPUTS 1 t OUTPUTS 1 u", "+OK"),
            (dag, "[+OK]"),
            ("AI.MODELDEL m", "+OK"),
        ):
            for _ in range(2):
                bare.script_flush()
                assert client.ask(command) == reply
                if command.startswith("AI.MODELDEL"):
                    break
        assert client.ask("AI.TENSORGET v VALUES") == '["2", "4"]'


def test_a_pipeline_fails_at_most_once(front_door: FrontDoor, bare: redis.Redis) -> None:
    sets = [f"AI.TENSORSET t INT32 1 VALUES {n}" for n in range(50)]
    with talk(front_door.port) as client:
        client.given(sets[0])
        held = 0
        for _ in range(3):
            bare.script_flush()
            client.send(*sets, "AI.TENSORGET t VALUES")
            replies = [client.reply() for _ in range(51)]
            assert set(replies[:-1]) <= {"+OK", FORGOTTEN}
            # What says that nothing was written has written nothing: the value is the last one that was confirmed.
            confirmed = [n for n, reply in enumerate(replies[:-1]) if reply == "+OK"]
            assert replies[-1] == f"[:{confirmed[-1] if confirmed else held}]"
            client.send(*sets)
            assert [client.reply() for _ in range(50)] == ["+OK"] * 50
            held = 49


def test_nothing_overtakes_a_repeated_write(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given("AI.TENSORSET t INT32 1 VALUES 0")
        for n in range(1, 100):
            bare.script_flush()
            client.send(f"AI.TENSORSET t INT32 1 VALUES {n}")
            client.send("AI.TENSORGET t VALUES")  # in a packet of its own
            write, read = client.reply(), client.reply()
            assert write in ("+OK", FORGOTTEN)
            assert write == FORGOTTEN or read == f"[:{n}]"


def test_in_a_transaction(front_door: FrontDoor, bare: redis.Redis) -> None:
    with talk(front_door.port) as client:
        client.given("MULTI", "AI.TENSORSET t INT32 1 VALUES 5")
        bare.script_flush()
        assert client.ask("EXEC") == "[+OK]"
