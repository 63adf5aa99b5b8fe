"""A script of functions that call back, for the tests of what comes of that."""

from __future__ import annotations

import re

import redis

__all__ = ["store_script"]

SOURCE = """
def told(tensors: List[Tensor], keys: List[str], args: List[str]):
    reply = redis.execute(args[0], args[1:])
    words: List[str] = []
    if isinstance(reply, List[Any]):
        for item in reply:
            words.append(str(item))
    else:
        words.append(str(reply))
    redis.execute("SET", keys[0], "|".join(words))

def model(tensors: List[Tensor], keys: List[str], args: List[str]):
    return redisAI.model_execute(keys[0], tensors, 1)

def gate(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("SET", keys[0] + ":reached", "1")
    while str(redis.execute("GET", keys[0])) == "None":
        pass
    redis.execute("AI.TENSORSET", keys[0] + ":passed", "FLOAT", "1", "VALUES", "1")

def mark(tensors: List[Tensor], keys: List[str], args: List[str]):
    redis.execute("SET", keys[0], "1")
"""
FUNCTIONS = re.findall(r"^def (\w+)", SOURCE, re.MULTILINE)


def store_script(client: redis.Redis) -> None:
    """Store it as `s`, each function an entry point."""
    words = ("AI.SCRIPTSTORE", "s", "CPU", "ENTRY_POINTS", len(FUNCTIONS), *FUNCTIONS, "SOURCE", SOURCE)
    assert client.execute_command(*words) == b"OK"
