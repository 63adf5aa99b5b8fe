"""Who is to blame for the end of an engine process. Pure."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["Suspect", "Verdict", "by_program", "culprit_of", "exit_word"]


class Suspect(NamedTuple):
    """A model that was being run or loaded when its process ended.

    program: its number in the process.   in_load: it was being loaded.   name: for the log.
    """

    program: int
    in_load: bool
    name: str


class Verdict(NamedTuple):
    """Why a process ended.

    how: in words.   culprit: number of the program that ended it, 0 if that is not known.   apart: programs to be tried
    in processes of their own.   counts: whoever gets this counts the death.   status: exit status, or minus the
    signal's number; None if it is not known.
    """

    how: str
    culprit: int = 0
    apart: tuple[int, ...] = ()
    counts: bool = False
    status: int | None = None


def culprit_of(suspects: Iterable[int], blamed: int, by_itself: bool) -> int:
    """The program to blame, 0 for none.

    Args: suspects: programs that were under way.   blamed: the one for which the process was killed, 0 for none.
          by_itself: the process ended by itself.
    """
    if blamed:
        return blamed
    programs = set(suspects)
    return programs.pop() if by_itself and len(programs) == 1 else 0


def exit_word(status: int | None) -> str:
    """A process's end in one word: the signal, or the exit status. None: it is not known."""
    if status is None:
        return "unknown status"
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def by_program(suspects: Iterable[Suspect]) -> Mapping[int, Suspect]:
    """By program. One that several front doors name was being run if one of them says so: then it was loaded before."""
    found: dict[int, Suspect] = {}
    for suspect in suspects:
        if suspect.program not in found or not suspect.in_load:
            found[suspect.program] = suspect
    return found
