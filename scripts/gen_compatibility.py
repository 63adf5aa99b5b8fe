"""Write docs/known-differences.md and docs/redis-compatibility.md from the tables beside them.

python scripts/gen_compatibility.py           write the pages
python scripts/gen_compatibility.py --check   exit with 1 if a page is not what its table says
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
_NOTE = "\n<!-- Written by scripts/gen_compatibility.py from {}. -->\n"


def read(name: str) -> dict[str, Any]:
    """A table of docs/."""
    return tomllib.loads((DOCS / name).read_text())


def render_differences() -> str:
    """The page of known differences."""
    rows = read("known-differences.toml")["difference"]
    text = """\
# Known differences from RedisAI

Replies, error texts and side effects are those of RedisAI 1.2.7, but for what stands here. Every row is on purpose and
has a test. Sections are those of the description of RedisAI's protocol that the tests follow; `[!]` marks a defect of
RedisAI.
"""
    for row in rows:
        text += f"\n## {row['id']}\n\n"
        text += f"- RedisAI: {row['redisai']}\n- Here: {row['ours']}\n- Why: {row['why']}\n- Source: {row['source']}\n"
    return text + _NOTE.format("known-differences.toml")


PAGES = {"known-differences.md": render_differences}


def main() -> int:
    """Write the pages, or compare them with the tables."""
    stale = []
    for name, render in PAGES.items():
        page, text = DOCS / name, render()
        if page.exists() and page.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv[1:]:
            page.write_text(text)
    for name in stale:
        print(f"{'stale' if '--check' in sys.argv[1:] else 'written'}: docs/{name}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
