"""Hide passwords on the command line from other users' process lists.

A process can overwrite what `ps` shows of it, but only once it runs, so the password is visible for a moment. A file
(`--redis-password-file`) or a variable (REDISAI_REDIS, REDISAI_URL) never shows it.
"""

from __future__ import annotations

import re
import sys

from redisai_py.urls import masked_url

__all__ = ["mask_command_line"]

_IN_QUERY = re.compile(r"(?<=[?&]password=)[^&]*")


def mask_command_line() -> None:
    """Replace this process's title by its command line with masked passwords, if there are any."""
    masked = list(map(_masked, sys.orig_argv))
    if masked != sys.orig_argv:
        from setproctitle import setproctitle  # imported here, because few command lines need it

        setproctitle(" ".join(masked))


def _masked(word: str) -> str:
    """The word with `***` instead of the password, if it is a URL, or OPTION=URL."""
    found = re.search(r"(?:^|=)(\w+://.*)", word, re.DOTALL)
    if found is None:
        return word
    return word[: found.start(1)] + _IN_QUERY.sub("***", masked_url(found[1]))
