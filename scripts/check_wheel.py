"""Check that a wheel holds what it should and nothing else: `python scripts/check_wheel.py WHEEL...`.

The backends live under `backends/` in the repository but are top-level packages of the wheel; an editable install makes
a bare `backends` importable besides, so only a look into the wheel shows that nothing depends on it.
"""

from __future__ import annotations

import configparser
import sys
import tomllib
import zipfile
from pathlib import Path

TOP_LEVEL = {"redisai_py", "redisai_py_onnx", "redisai_py_tensorflow", "redisai_py_tflite", "redisai_py_torch"}
_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
ENTRY_POINTS = {"console_scripts": _PROJECT["scripts"], **_PROJECT["entry-points"]}


def problems(wheel: Path) -> list[str]:
    """What is wrong with the wheel, one line each; empty if nothing is."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next((archive.read(n).decode() for n in names if n.endswith(".dist-info/entry_points.txt")), "")
    found = [name for name in names if ".dist-info/" not in name]
    top_level = {name.partition("/")[0] for name in found}
    wrong = [f"has {name} at its top level" for name in sorted(top_level - TOP_LEVEL)]
    wrong += [f"lacks the package {name}" for name in sorted(TOP_LEVEL - top_level)]
    wrong += [f"has {name}, which is not source" for name in found if not name.endswith((".py", "/py.typed", ".html"))]
    if "redisai_py/py.typed" not in found:
        wrong.append("lacks redisai_py/py.typed: its types would not be used")
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(entry_points)
    if (groups := {group: dict(parser[group]) for group in parser.sections()}) != ENTRY_POINTS:
        wrong.append(f"has the entry points {groups}, not {ENTRY_POINTS}")
    return wrong


def main() -> int:
    """Print the problems of the wheels named on the command line. Returns the exit status."""
    status = 0
    for wheel in map(Path, sys.argv[1:]):
        for problem in problems(wheel):
            print(f"{wheel.name} {problem}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
