"""Three deaths in a row, and what ends the row."""

from __future__ import annotations

from redisai_py.engine.isolation.at_once import PATIENCE_S, ElsewherePolicy
from redisai_py.engine.isolation.quarantine import LIMIT, Quarantine


def test_only_deaths_in_a_row_count() -> None:
    quarantine = Quarantine()
    for _ in range(LIMIT - 1):
        quarantine.struck("m", "SIGSEGV", in_load=False)
    quarantine.went_well("m")
    for _ in range(LIMIT - 1):
        assert quarantine.struck("m", "SIGSEGV", in_load=False).count < LIMIT
        assert quarantine.reason("m") == ""
    quarantine.struck("m", "SIGABRT", in_load=True)
    assert quarantine.reason("m") == "its engine process died in 3 loads in a row, the last time by SIGABRT"
    assert quarantine.reasons() == {"m": quarantine.reason("m")}
    assert quarantine.reason("other") == ""


def test_the_record_goes_with_the_identity() -> None:
    quarantine = Quarantine()
    for _ in range(LIMIT):
        quarantine.struck("before", "SIGSEGV", in_load=False)
    quarantine.rename("before", "after")
    quarantine.rename("unknown", "x")
    assert not quarantine.reason("before")
    assert quarantine.reason("after")
    quarantine.forget("after")
    assert quarantine.reasons() == {}


class _Session:
    in_server = False
    ran_s = 0.0001


def _allows(policy: ElsewherePolicy, kind: str, rows: int) -> bool:
    return rows <= policy.short_rows.get(kind, -1)


def test_runs_elsewhere_are_short_by_the_time_they_take_there() -> None:
    session = _Session()
    policy = ElsewherePolicy(0.0003, session)
    policy.measured("kind", 1, 0.5, 0.0)
    assert _allows(policy, "kind", 1)
    for _ in range(100):
        policy.ran(0.015, 0.0)  # the process had to wait for a core
    assert _allows(policy, "kind", 1)
    for _ in range(8):
        policy.ran(PATIENCE_S, 0.0)
    assert not _allows(policy, "kind", 1), "the event loop gave up too often"
    slow = ElsewherePolicy(0.0003, session)
    session.ran_s = 0.01
    slow.measured("kind", 1, 0.0001, 0.0001)
    assert not _allows(slow, "kind", 1)
    session.in_server = True
    slow.measured("kind", 1, 0.0001, 0.0001)
    assert _allows(slow, "kind", 1)
