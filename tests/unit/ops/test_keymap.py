"""What the server knows of the keys of models and scripts."""

from __future__ import annotations

from redisai_py.model import Kind
from redisai_py.ops.keymap import KeyMap, ProgramEntry, ProgramKey


def program_key(key: str, database: int = 0) -> ProgramKey:
    return ProgramKey(Kind.MODEL, database, key.encode())


def entry(stored_id: str) -> ProgramEntry:
    return ProgramEntry(f"id {stored_id}", stored_id, "ONNX", "CPU")


def test_a_replaced_id_is_told_once() -> None:
    keys = KeyMap()
    assert keys.put(program_key("k"), entry("1")) is None
    assert keys.put(program_key("k"), entry("1")) is None
    assert keys.put(program_key("k"), entry("2")) == "1"
    assert keys.key_of("1") is None
    assert keys.key_of("2") == program_key("k")
    assert keys.forget(program_key("k")) == "2"
    assert keys.forget(program_key("k")) is None
    assert keys.entries() == []


def test_an_id_that_two_keys_have_is_kept_until_the_last_goes() -> None:
    keys = KeyMap()
    keys.put(program_key("a"), entry("1"))
    keys.put(program_key("b", 3), entry("1"))
    assert keys.key_of("1") == program_key("b", 3)
    assert keys.forget(program_key("b", 3)) is None
    assert keys.key_of("1") == program_key("a")
    assert keys.put(program_key("a"), entry("2")) == "1"


def test_an_id_has_a_name_while_it_is_loaded_and_afterwards_only_if_a_key_holds_it() -> None:
    keys = KeyMap()
    keys.announce("1", program_key("a"))
    assert keys.key_of("1") == program_key("a")
    keys.withdraw("1")
    assert keys.key_of("1") is None
    keys.put(program_key("b"), entry("2"))
    keys.announce("2", program_key("c"))
    keys.withdraw("2")
    assert keys.key_of("2") == program_key("b")
    keys.withdraw("3")


def test_the_longest_unmet_go_first() -> None:
    keys = KeyMap(limit=2)
    keys.put(program_key("a"), entry("1"))
    keys.put(program_key("b"), entry("2"))
    keys.put(program_key("a"), entry("1"))
    keys.put(program_key("c"), entry("3"))
    assert [where.name for where, _ in keys.entries()] == ["a", "c"]
    assert keys.key_of("2") is None
    assert keys.get(program_key("b")) is None


def test_keys_that_are_no_text_have_a_name() -> None:
    assert ProgramKey(Kind.MODEL, 0, b"a\xff").name == "a\\xff"
