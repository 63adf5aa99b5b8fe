"""Gates: conditions that metrics must meet before a model is published. Pure.

accuracy = ">=0.93"                                 the metric itself
accuracy_vs = { "@production" = ">=-0.01" }         the metric minus that of another version
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redisai_py.artifacts.errors import ArtifactError, Invalid

__all__ = ["Gate", "GateFailed", "GateResult", "check_gates", "read_gates"]

_VERSUS = "_vs"
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_BOUND = re.compile(r"\s*(>=|<=|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


class GateFailed(ArtifactError):
    """A gate failed; nothing was published.   results: of all gates."""

    def __init__(self, results: Sequence[GateResult]) -> None:
        self.results = tuple(results)
        failed = "; ".join(str(result) for result in results if not result.passed)
        super().__init__(f"nothing is published, since a gate failed: {failed}")


@dataclass(frozen=True)
class Gate:
    """metric: its name.   versus: an alias such as `@production`, or None.   sign, bound: the condition."""

    metric: str
    versus: str | None
    sign: str
    bound: float

    def as_value(self) -> dict[str, Any]:
        """The gate as written in a definition."""
        text = f"{self.sign}{self.bound:.15g}"
        return {self.metric: text} if self.versus is None else {self.metric + _VERSUS: {self.versus: text}}


@dataclass(frozen=True)
class GateResult:
    """value: the compared value; None if there is no other version to compare with."""

    gate: Gate
    metric: str
    value: float | None

    @property
    def passed(self) -> bool:
        """Whether the gate holds. Without a version to compare with, it does."""
        return self.value is None or _COMPARE[self.gate.sign](self.value, self.gate.bound)

    def __str__(self) -> str:
        what = self.metric if self.gate.versus is None else f"{self.metric} minus that of {self.gate.versus}"
        if self.value is None:
            return f"{what}: there is no {self.gate.versus} to compare with"
        verb = "is" if self.passed else "must be"
        shown = f"{self.value:.6g}"
        return (
            f"{what} {verb} {self.gate.sign} {self.gate.bound:g}"
            + f", and is {shown}" * (not self.passed)
            + (f" ({shown})" * self.passed)
        )


def read_gates(what: str, value: Any) -> tuple[Gate, ...]:
    """Parse the gates of a definition. Raises: Invalid, naming the gate."""
    if not isinstance(value, Mapping):
        raise Invalid(f'{what} must be a table such as {{ accuracy = ">=0.93" }}')
    found = []
    for name, given in sorted(value.items()):
        if not name.endswith(_VERSUS):
            found.append(Gate(name, None, *_bound(f"{what}.{name}", given)))
            continue
        if not isinstance(given, Mapping) or len(given) != 1 or not next(iter(given)).startswith("@"):
            raise Invalid(f'{what}.{name} must be a table such as {{ "@production" = ">=-0.01" }}')
        ((versus, bound),) = given.items()
        found.append(Gate(name.removesuffix(_VERSUS), versus, *_bound(f"{what}.{name}", bound)))
    return tuple(found)


def _bound(what: str, given: Any) -> tuple[str, float]:
    match = _BOUND.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        raise Invalid(f'{what} is {given!r}; it must be a comparison such as ">=0.93" or "<0.1"')
    return match[1], float(match[2])


def check_gates(
    gates: Sequence[Gate], metrics: Mapping[str, float], others: Mapping[str, Mapping[str, float] | None]
) -> list[GateResult]:
    """Check metrics against gates.

    Args:    metrics: by name; with several targets `TARGET.METRIC`; a gate without a target applies to each target.
             others: metrics of the versions to compare with, by alias; None if there is no such version.
    Raises:  Invalid: a gate names a metric that was not measured.
    """
    found = []
    for gate in gates:
        names = [name for name in metrics if name == gate.metric or name.endswith(f".{gate.metric}")]
        if not names:
            raise Invalid(f"the gate {gate.metric} has no metric; measured were {', '.join(sorted(metrics)) or 'none'}")
        for name in names:
            value: float | None = metrics[name]
            if gate.versus is not None:
                before = (others.get(gate.versus) or {}).get(name)
                value = None if before is None else metrics[name] - before
            if value is not None and math.isnan(value):
                raise Invalid(f"the gate {gate.metric} cannot be decided: {name} is not a number")
            found.append(GateResult(gate, name, value))
    return found
