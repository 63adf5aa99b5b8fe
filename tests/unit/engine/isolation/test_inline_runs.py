"""Which runs in engine processes the event loop waits for."""

from __future__ import annotations

import socket

from redisai_py.engine.isolation.inline_runs import INLINE_TIMEOUT_S, RemoteInlinePolicy
from redisai_py.engine.isolation.long_runs import LongRuns
from redisai_py.engine.isolation.processes import EngineProcess


class _Session:
    in_server = False
    ran_s = 0.0001


def _allows(policy: RemoteInlinePolicy, kind: str, rows: int) -> bool:
    return rows <= policy.short_rows.get(kind, -1)


def test_runs_elsewhere_are_short_by_the_time_they_take_there() -> None:
    session = _Session()
    policy = RemoteInlinePolicy(0.0003, session)
    policy.measured("kind", 1, 0.5, 0.0)
    assert _allows(policy, "kind", 1)
    for _ in range(100):
        policy.ran(0.015, 0.0)  # the process had to wait for a core
    assert _allows(policy, "kind", 1)
    for _ in range(8):
        policy.ran(INLINE_TIMEOUT_S, 0.0)
    assert not _allows(policy, "kind", 1), "the event loop gave up too often"
    slow = RemoteInlinePolicy(0.0003, session)
    session.ran_s = 0.01
    slow.measured("kind", 1, 0.0001, 0.0001)
    assert not _allows(slow, "kind", 1)
    session.in_server = True
    slow.measured("kind", 1, 0.0001, 0.0001)
    assert _allows(slow, "kind", 1)


def test_of_two_lanes_of_the_event_loop_one_is_kept_and_one_closed() -> None:
    """The event loop gave up waiting for the first model's run, and began one of another model in the same process."""
    control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = EngineProcess(1, control, False, LongRuns(list, lambda _: None), lambda *_: None, lambda *_: None)
    first = process.take_inline("m")
    second = process.take_inline("n")
    process.give_back(second)
    process.give_back(first)
    assert first.sock.fileno() == -1
    assert process.take_inline("m") is second
    process.give_back(second)
    process.cut_off()
    assert second.sock.fileno() == -1
    far.close()
