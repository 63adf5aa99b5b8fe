"""Models and scripts that are run and asked about, and what INFO says of them."""

from __future__ import annotations

from typing import Any

import redis

from scripts.make_models import build_onnx_mul

__all__ = ["SCRIPT", "counters", "info", "raw", "run", "sections", "store", "tensor"]

SCRIPT = """
def double(tensors: List[Tensor], keys: List[str], args: List[str]):
    return tensors[0] * 2

def boom(tensors: List[Tensor], keys: List[str], args: List[str]):
    raise RuntimeError("boom")
    return tensors[0]
"""


def store(client: redis.Redis, key: str = "net", *options: Any, blob: bytes | None = None) -> None:
    assert (
        client.execute_command("AI.MODELSTORE", key, "ONNX", "CPU", *options, "BLOB", blob or build_onnx_mul()) == b"OK"
    )


def tensor(client: redis.Redis, key: str, *rows: tuple[float, ...]) -> None:
    values = [value for row in rows for value in row]
    client.execute_command("AI.TENSORSET", key, "FLOAT", len(rows), len(rows[0]), "VALUES", *values)


def run(client: redis.Redis, model: str = "net", inputs: str = "in", output: str = "out") -> Any:
    return client.execute_command("AI.MODELEXECUTE", model, "INPUTS", 1, inputs, "OUTPUTS", 1, output)


def info(client: redis.Redis, key: str = "net", *more: str) -> dict[str, Any]:
    reply = client.execute_command("AI.INFO", key, *more)
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


def counters(client: redis.Redis, key: str = "net") -> tuple[int, int, int]:
    fields = info(client, key)
    return fields["calls"], fields["errors"], fields["samples"]


def raw(client: redis.Redis, *words: str) -> Any:
    """A reply as it comes: redis-py makes something else of those of COMMAND, INFO and MODULE."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command(*words)
        return connection.read_response()
    finally:
        client.connection_pool.release(connection)


def sections(client: redis.Redis, *words: str) -> dict[str, dict[str, str]]:
    """INFO's text by section, in order."""
    text = raw(client, "INFO", *words).decode()
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            fields = found[line[2:]] = {}
        elif line:
            name, _, value = line.rpartition(":") if "_bthread_" in line else line.partition(":")
            fields[name] = value
    return found
