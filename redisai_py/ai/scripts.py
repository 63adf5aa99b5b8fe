"""AI.SCRIPTSTORE, AI.SCRIPTSET, AI.SCRIPTGET, AI.SCRIPTDEL, AI._SCRIPTSCAN."""

from __future__ import annotations

import uuid
from typing import Any

from redisai_py.ai.multi import InMulti, checked, deletion
from redisai_py.ai.script_execute import script_key
from redisai_py.commands import scripts
from redisai_py.commands.models import scan_reply
from redisai_py.commands.scripts import script_reply
from redisai_py.errors import SCRIPT_KEY_EMPTY, MissingKey
from redisai_py.frontdoor.turn import Turn
from redisai_py.model import Kind, Script
from redisai_py.resp.replies import OK
from redisai_py.store import codec

__all__ = ["HANDLERS", "IN_MULTI"]


async def script_store(request: scripts.ScriptStore, turn: Turn) -> Any:
    """AI.SCRIPTSTORE, AI.SCRIPTSET: compile first, so that a bad script never replaces a good one."""
    store = (await turn.session.authenticated()).store
    script = Script(uuid.uuid4().hex, request.device, request.tag, request.entry_points, request.source)
    await store.check_store(request.key, script.id)
    owner = turn.session.identity.owner
    await turn.services.scripts.compile(request.source, request.device, request.entry_points, owner=owner)
    await store.put_script(request.key, script)
    turn.services.programs.record(script_key(request.key, turn), script)
    return OK


async def script_get(request: scripts.ScriptGet, turn: Turn) -> Any:
    """AI.SCRIPTGET."""
    return script_reply(request, await (await turn.session.authenticated()).store.script(request.key))


async def script_del(request: scripts.ScriptDel, turn: Turn) -> Any:
    """AI.SCRIPTDEL."""
    store = (await turn.session.authenticated()).store
    await store.delete(request.key, Kind.SCRIPT, SCRIPT_KEY_EMPTY)
    turn.services.programs.record_deleted(script_key(request.key, turn))
    return OK


async def script_scan(request: scripts.ScriptScan, turn: Turn) -> Any:
    """AI._SCRIPTSCAN."""
    store = (await turn.session.authenticated()).store
    return scan_reply([entry async for entry in store.scan(Kind.SCRIPT)])


def _script_get(request: scripts.ScriptGet, turn: Turn) -> InMulti:
    def finish(replies: list[Any]) -> Any:
        if replies[0] == b"none":
            raise MissingKey(SCRIPT_KEY_EMPTY)
        return script_reply(request, codec.decode_script(checked(replies[1])))

    return [[b"TYPE", request.key], [b"HMGET", request.key, *codec.SCRIPT_FIELDS]], finish


HANDLERS: dict[type, Any] = {
    scripts.ScriptStore: script_store,
    scripts.ScriptGet: script_get,
    scripts.ScriptDel: script_del,
    scripts.ScriptScan: script_scan,
}
"""Request -> its handler."""

IN_MULTI: dict[type, Any] = {
    scripts.ScriptGet: _script_get,
    scripts.ScriptDel: deletion(Kind.SCRIPT, SCRIPT_KEY_EMPTY),
}
"""Request -> the plain commands that stand for it in a transaction."""
