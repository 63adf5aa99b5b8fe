"""Three deaths in a row, and what ends the row."""

from __future__ import annotations

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
