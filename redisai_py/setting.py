"""The description of one setting: its names, default, limits and help text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Setting", "setting_field"]


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

    @property
    def variable(self) -> str:
        """As in the environment: `REDISAI_MAX_CLIENTS`."""
        return "REDISAI_" + self.name.upper()

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
