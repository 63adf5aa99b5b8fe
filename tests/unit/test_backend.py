"""Texts of frameworks as the client sees them."""

from __future__ import annotations

import pytest

from redisai_py.backend import framework_error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one", "one"),
        ("one\ntwo", "one two"),
        ("one\n two\n\nthree", "one  two  three"),
        ("a\ttab  and spaces\n", "a\ttab  and spaces "),
        ("one\r\ntwo", "one  two"),
        ("", "ValueError"),
        ("\n", "ValueError"),
    ],
)
def test_each_newline_becomes_one_space_and_nothing_else_changes(text: str, shown: str) -> None:
    assert str(framework_error(ValueError(text))) == shown
    assert str(framework_error(ValueError(text), "ERR ")) == f"ERR {shown}"
