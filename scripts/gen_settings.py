"""Write the table of settings into docs/operations.md, from the one list of them in `redisai_py.config`.

python scripts/gen_settings.py           write it
python scripts/gen_settings.py --check   exit with 1 if the page is not what the settings say
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from redisai_py.config import Setting, settings  # noqa: E402  (the checkout itself, not an installed package)

PAGE = ROOT / "docs" / "operations.md"
BEGIN = "<!-- Settings: written by scripts/gen_settings.py. -->\n"
END = "<!-- End of the settings. -->\n"


def table() -> str:
    """The settings as Markdown, one table per group."""
    parts = []
    for group, members in itertools.groupby(settings(), lambda setting: setting.group):
        rows = "".join(f"| `{setting.flag}` | {_default(setting)} | {_meaning(setting)} |\n" for setting in members)
        parts.append(f"### {group}\n\n| flag | default | |\n|---|---|---|\n{rows}")
    return "\n".join(parts)


def _default(setting: Setting) -> str:
    value = setting.default
    if value in (None, ()):
        return "none"
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    if setting.name.endswith("_bytes"):
        for unit, size in (("MiB", 1024 * 1024), ("KiB", 1024)):
            if value and value % size == 0:
                return f"{value // size}{unit}"
    return str(value)


def _meaning(setting: Setting) -> str:
    text = setting.help
    if setting.choices:
        text += f" One of {', '.join(setting.choices)}."
    if setting.zero:
        text += f" 0: {setting.zero}."
    limits = [f"at {word} {limit}" for word, limit in _limits(setting) if limit is not None]
    return text + (f" {', '.join(limits).capitalize()}." if limits else "")


def _limits(setting: Setting) -> tuple[tuple[str, int | None], ...]:
    least = setting.minimum if setting.minimum != 1 else None  # "at least 1" says nothing
    return ("least", least), ("most", setting.maximum)


def page(text: str) -> str:
    """The page's text with the table of now between the marks."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def main() -> int:
    """Write or check; returns the exit status."""
    text = PAGE.read_text()
    if "--check" in sys.argv[1:]:
        return int(page(text) != text)
    PAGE.write_text(page(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
