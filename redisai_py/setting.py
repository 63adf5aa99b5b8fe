"""One setting: its names, default, limits and help text; and what the values of some settings mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["MOST_THREADS", "Setting", "check_listening", "device_threads", "setting_field"]

MOST_THREADS = 1024
_DEVICE = re.compile(r"(?:CPU|GPU)(?::[0-9]{0,5})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setting:
    """The description of one setting.

    name: of the field; the flag `--name-with-dashes`, the variable `REDISAI_NAME` and the file's key derive from it.
    help: one or two sentences.   group: heading in the help page.
    minimum, maximum: inclusive, None for no limit.   zero: what 0 means, if 0 is allowed below `minimum`.
    choices: the allowed values, empty for any.
    """

    name: str
    type: str
    default: Any
    help: str
    group: str
    minimum: int | None
    maximum: int | None
    zero: str
    choices: tuple[str, ...]

    @property
    def flag(self) -> str:
        """As on the command line: `--max-clients`."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> None:
        """Raise ValueError, with a text that names the setting and the limit, if the value is out of bounds."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}, but must be one of {', '.join(self.choices)}")
        if not isinstance(value, int) or (self.zero and value == 0):
            return
        if self.minimum is not None and value < self.minimum:
            zero = f" (or 0: {self.zero})" if self.zero else ""
            raise ValueError(f"{self.name} is {value}, but must be at least {self.minimum}{zero}")
        if self.maximum is not None and value > self.maximum:
            raise ValueError(f"{self.name} is {value}, but must be at most {self.maximum}")


def setting_field(
    default: Any,
    group: str,
    text: str,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    zero: str = "",
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of `Config` with the description of its setting; see `Setting` for the arguments."""
    metadata = {"help": text, "group": group, "minimum": minimum, "maximum": maximum, "zero": zero, "choices": choices}
    return field(default=default, metadata=metadata)


def device_threads(words: Iterable[str]) -> dict[str, int]:
    """Worker threads by upper-case device string. words: values of the setting. Raises: ValueError."""
    return dict(map(_device_threads, words))


def _device_threads(word: str) -> tuple[str, int]:
    device, _, count = word.partition("=")
    if not _DEVICE.fullmatch(device) or not count.isdecimal() or not 1 <= int(count) <= MOST_THREADS:
        raise ValueError(
            f"device_threads is {word!r}, but must be DEVICE=N (for example GPU:0=1) with N from 1 to {MOST_THREADS}"
        )
    return device.upper(), int(count)


def check_listening(host: tuple[str, ...], unix_socket: Path | None, unix_socket_perm: str) -> None:
    """See that the settings of these names name something to listen on. Raises: ValueError."""
    if not re.fullmatch("[0-7]{3,4}", unix_socket_perm) or int(unix_socket_perm, 8) > 0o777:
        raise ValueError(f"unix_socket_perm is {unix_socket_perm!r}, but must be octal, from 000 to 777")
    for address in host:
        if not address.strip("-"):
            raise ValueError(f"host contains {address!r}, which is not an address")
    if not host and unix_socket is None:
        raise ValueError("nothing to listen on: host has no address and unix_socket no path")
