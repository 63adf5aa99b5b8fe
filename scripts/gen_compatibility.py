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

Replies, error texts and side effects are those of RedisAI 1.2.7, except for the differences on this page. Each one is
intended and has a test. Section numbers refer to the description of RedisAI's protocol that the tests follow; `[!]`
marks a defect of RedisAI.
"""
    for row in rows:
        text += f"\n## {row['id']}\n\n"
        text += f"- RedisAI: {row['redisai']}\n- Here: {row['ours']}\n- Why: {row['why']}\n- Source: {row['source']}\n"
    return text + _NOTE.format("known-differences.toml")


def render_compatibility() -> str:
    """The page on Redis's own commands and on redis-cli."""
    table = read("redis-compatibility.toml")
    identical = sorted(name for name in table["identical"])
    refused = table["refused"]
    text = f"""\
# Redis's own commands

Any Redis client works with redisai_py. All commands other than AI commands go to Redis byte for byte, with the client's
credentials and database, and Redis's reply comes back byte for byte. Tests compare the table behind this page with the
command lists of Redis 6.2, 7.0 and 8.2 and Valkey 9.1, and its {sum(map(len, _all_calls(table)))} calls with the
replies of these servers, in RESP2 and RESP3.

## Amended

| command | difference |
|---|---|
"""
    for name, row in table["amended"].items():
        text += f"| {_show(name)} | {row['note']} |\n"
    text += "\n## Refused\n\n" + refused["note"] + "\n\n" + ", ".join(map(_show, refused["commands"])) + "\n"
    text += "\n## redis-cli\n\n| mode | behaviour |\n|---|---|\n"
    for mode, how in table["redis-cli"].items():
        text += f"| `{mode}` | {how} |\n"
    text += "\n## Identical\n\n" + ", ".join(map(_show, identical)) + "\n"
    text += "\n## Identical, if the server has them\n\nRedis later than 7.0, or Valkey: "
    text += ", ".join(map(_show, sorted(table["newer"]))) + "\n"
    return text + _NOTE.format("redis-compatibility.toml")


def _show(name: str) -> str:
    return f"`{name.replace('|', ' ').upper()}`"


def _all_calls(table: dict[str, Any]) -> list[list[str]]:
    return [
        *table["identical"].values(),
        *table["newer"].values(),
        *(row["calls"] for row in table["amended"].values()),
    ]


PAGES = {"known-differences.md": render_differences, "redis-compatibility.md": render_compatibility}


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
