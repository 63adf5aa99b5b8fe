"""AI.TENSORSET and AI.TENSORGET where they are not a single step: a large tensor, a first command, a user without
scripts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redisai_py.commands import tensors
from redisai_py.commands.tensors import tensor_reply
from redisai_py.resp.replies import OK

if TYPE_CHECKING:
    from redisai_py.frontdoor.connection import Connection

__all__ = ["HANDLERS"]


async def tensor_set(request: tensors.TensorSet, connection: Connection) -> Any:
    """AI.TENSORSET."""
    store = (await connection.session.authenticated()).store
    await store.put_tensors([(request.key, request.tensor)])
    return OK


async def tensor_get(request: tensors.TensorGet, connection: Connection) -> Any:
    """AI.TENSORGET."""
    tensor = await (await connection.session.authenticated()).store.tensor(request.key)
    return tensor_reply(request, tensor.dtype, tensor.shape, tensor.data)


HANDLERS: dict[type, Any] = {
    tensors.TensorSet: tensor_set,
    tensors.TensorGet: tensor_get,
}
"""Request -> what is done for it."""
