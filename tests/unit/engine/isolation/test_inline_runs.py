"""Which runs in engine processes the event loop waits for."""

from __future__ import annotations

from redisai_py.engine.isolation.inline_runs import INLINE_TIMEOUT_S, RemoteInlinePolicy


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
