"""Which models a process has, by number and identity."""

from __future__ import annotations

import random

from redisai_py.engine.isolation.program_table import ProgramTable


def empty() -> ProgramTable[tuple[str, int]]:
    return ProgramTable()


def test_a_model_has_one_number_until_its_last_user_leaves() -> None:
    table = empty()
    assert table.number_of("m") == 0
    table.add(("door 1", 1), 7, "m")
    table.add(("door 2", 1), 7, "m")
    assert (table.number_of("m"), table.identity_of(7), len(table)) == (7, "m", 2)
    table.remove(("door 1", 1))
    table.remove(("door 1", 1))
    assert table.number_of("m") == 7
    table.remove(("door 2", 1))
    assert (table.number_of("m"), len(table), list(table.users())) == (0, 0, [])
    assert table.identity_of(7) == "m", "a verdict may still concern it"
    table.add(("door 1", 2), 8, "m")
    assert (table.number_of("m"), table.identity_of(8), table.identity_of(7)) == (8, "m", "m")


def test_a_model_is_found_under_its_new_identity() -> None:
    table = empty()
    table.add(("door", 1), 7, "before")
    table.rename("before", "after")
    table.rename("unknown", "whatever")
    assert (table.number_of("before"), table.number_of("after"), table.identity_of(7)) == (0, 7, "after")
    table.remove(("door", 1))
    assert (table.number_of("after"), table.identity_of(7)) == (0, "after")


def test_a_user_of_another_model_is_one_of_the_former_no_more() -> None:
    table = empty()
    table.add(("door", 1), 7, "m")
    table.add(("door", 1), 8, "n")
    assert (table.number_of("m"), table.number_of("n"), len(table)) == (0, 8, 1)


def test_nothing_is_kept_of_models_that_were_there() -> None:
    table, there, chance = empty(), [], random.Random(7)
    for number in range(1, 20_001):
        user = ("door", number)
        table.add(user, number, f"stored {number}")
        table.rename(f"stored {number}", f"m{number}")
        there.append(user)
        while len(there) > 5:
            table.remove(there.pop(chance.randrange(len(there))))
    assert len(table) == 5
    assert max(len(kept) for kept in vars(table).values()) <= 64
    for user in there:
        table.remove(user)
    assert all(not kept for name, kept in vars(table).items() if name != "_left")
    assert table.identity_of(1) == ""
