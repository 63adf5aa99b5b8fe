"""Which words of a command are keys: for COMMAND GETKEYS and cluster routing, without checking the rest.

Differs from RedisAI where that is plainly wrong: AI.SCRIPTEXECUTE names all its lists, also one that ends the command
or follows ARGS, and a DAG's models and scripts are those that stand as operations, not words that look so.
"""

from __future__ import annotations

from collections.abc import Iterator

from redisai_py.commands._args import Argv, is_word, strict_integer, to_bytes
from redisai_py.errors import CommandError

__all__ = ["dag_keys", "first_key", "model_execute_keys", "model_run_keys", "no_keys", "script_execute_keys"]

_INVALID = "ERR Invalid arguments specified for command"
_DAG_SCOPES = (b"LOAD", b"PERSIST")
_DAG_VALUES = (b"TIMEOUT", b"EX")


def no_keys(argv: Argv) -> list[bytes]:
    """A command without keys. Raises: CommandError, as COMMAND GETKEYS answers."""
    raise CommandError("ERR The command has no key arguments")


def first_key(argv: Argv) -> list[bytes]:
    """The word after the name. Raises: CommandError if there is none."""
    if len(argv) < 2:
        raise CommandError(_INVALID)
    return [to_bytes(argv[1])]


def model_execute_keys(argv: Argv) -> list[bytes]:
    """AI.MODELEXECUTE: the model, INPUTS, OUTPUTS."""
    return [*first_key(argv), *_counted_scopes(argv, 2, (b"INPUTS", b"OUTPUTS"))]


def script_execute_keys(argv: Argv) -> list[bytes]:
    """AI.SCRIPTEXECUTE: the script, then KEYS, INPUTS and OUTPUTS in the order given."""
    return [*first_key(argv), *_counted_scopes(argv, 3, (b"KEYS", b"INPUTS", b"OUTPUTS"))]


def _counted_scopes(argv: Argv, at: int, scopes: tuple[bytes, ...]) -> Iterator[bytes]:
    """The words of `SCOPE n word...` lists from `at` on, of the scopes named; lists of other scopes are skipped."""
    while at + 1 < len(argv):
        count = strict_integer(argv[at + 1])
        if count is None or count < 0:
            return
        end = min(at + 2 + count, len(argv))
        if any(is_word(argv[at], scope) for scope in scopes):
            yield from map(to_bytes, argv[at + 2 : end])
        # TIMEOUT ends a command, so its value is never taken for a count that matters.
        at = end


def model_run_keys(argv: Argv) -> list[bytes]:
    """AI.MODELRUN and AI.SCRIPTRUN: the model or script, then every word after INPUTS but OUTPUTS and `$`."""
    keys = first_key(argv)
    inputs_at = next((at for at in range(2, len(argv)) if is_word(argv[at], b"INPUTS")), len(argv))
    words = argv[inputs_at + 1 :]
    return keys + [to_bytes(word) for word in words if not is_word(word, b"OUTPUTS") and word != b"$"]


def dag_keys(argv: Argv) -> list[bytes]:
    """AI.DAG*: LOAD keys, PERSIST keys, the ROUTING value, and the model or script of every *EXECUTE operation.

    Raises: CommandError if there is none of these.
    """
    words = list(argv)
    prelude_end = words.index(b"|>") if b"|>" in words else len(words)
    keys = [*_prelude_keys(words, prelude_end), *_operation_keys(words, prelude_end)]
    if not keys:
        raise CommandError(_INVALID)
    return keys


def _prelude_keys(words: Argv, end: int) -> Iterator[bytes]:
    at = 1
    while at + 1 < end:
        word = words[at]
        if any(is_word(word, scope) for scope in _DAG_SCOPES):
            count = strict_integer(words[at + 1])
            if count is None or count < 0:
                return
            yield from map(to_bytes, words[at + 2 : min(at + 2 + count, end)])
            at += 2 + count
        elif is_word(word, b"ROUTING"):
            yield to_bytes(words[at + 1])
            at += 2
        else:
            at += 2 if any(is_word(word, name) for name in _DAG_VALUES) else 1


def _operation_keys(words: Argv, start: int) -> Iterator[bytes]:
    for at in range(start, len(words) - 2):
        name = words[at + 1]
        is_run = is_word(name, b"AI.MODELEXECUTE") or is_word(name, b"AI.SCRIPTEXECUTE")
        if is_run and words[at] == b"|>":
            yield to_bytes(words[at + 2])
