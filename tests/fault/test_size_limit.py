"""A tensor larger than Redis takes in one string: an error that names both sizes, and nothing is left behind."""

from __future__ import annotations

import pytest
import redis


@pytest.mark.parametrize("size", [1_200_000, 3_000_000])
def test_a_tensor_above_proto_max_bulk_len(client: redis.Redis, bare: redis.Redis, size: int) -> None:
    before = bare.config_get("proto-max-bulk-len")["proto-max-bulk-len"]
    bare.config_set("proto-max-bulk-len", 1024 * 1024)
    try:
        with pytest.raises(redis.ResponseError, match=rf"a tensor of {size} bytes is more .*: 1048576\)"):
            client.execute_command("AI.TENSORSET", "t", "UINT8", size, "BLOB", bytes(size))
        with pytest.raises(redis.ResponseError, match="1048576"):
            client.execute_command("AI.TENSORSET", "t", "BOOL", size, "BLOB", bytes(size))
        assert client.execute_command("AI.TENSORSET", "t", "UINT8", 1, "VALUES", 1) == b"OK"
        assert bare.keys() == [b"t"]
    finally:
        bare.config_set("proto-max-bulk-len", before)
