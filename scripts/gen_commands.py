"""Write docs/commands/*.md from the command table, one page per group.

python scripts/gen_commands.py           write the pages
python scripts/gen_commands.py --check   exit with 1 if a page is not what the table says
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from redisai_py.commands import COMMANDS, CommandSpec  # noqa: E402  (the checkout itself, not an installed package)

PAGES = ROOT / "docs" / "commands"

INTRODUCTIONS = {
    "tensors": """\
# Tensor commands

A tensor is an ordinary Redis string that holds a one-tensor safetensors file. `dtype` is one of FLOAT, DOUBLE, INT8,
INT16, INT32, INT64, UINT8, UINT16, BOOL, STRING, and beyond RedisAI FLOAT16, BFLOAT16, UINT32, UINT64, in any case.
Data is little-endian and in C order; no dimension is a scalar, which must come with BLOB or VALUES. Without data a
tensor is zeros.

Numbers in VALUES are decimal integers, or for floating-point types what C's `strtod` reads, `nan` excepted. Negative
integers are accepted. A STRING element may be empty and may end with one NUL; its BLOB is every element followed by
one NUL.
""",
    "models": """\
# Model commands

A model is an ordinary Redis hash with readable fields. The options of AI.MODELSTORE have a fixed order; all words
after BLOB are one blob in pieces. INPUTS and OUTPUTS name the graph's nodes and are for TF only: other models know
their own, and a SavedModel's may be left out. `SIGNATURE` names one of its signatures.

A model is loaded when it is stored, and run once with zeros where its shapes are known, so that the first client does
not wait for what a framework prepares (the warm-up). A model that may keep a state from run to run is not: its first
run is the first client's. Such a state is one server's, is shared by all clients, and goes when the model is loaded
again; keep a client's state in tensors that go in and out.

With BATCHSIZE, runs that wait at the same time are merged along the first dimension. The first merged runs of each kind
of input are compared with single ones; a model that gives other results then, or that may keep a state, is run singly.
`AI.INFO key FULL` says why (`not_merged`), and lists the model's `inputs` and `outputs`: name, element type and
dimensions (-1 is open), null for what the model does not say.

An output that is no tensor (ONNX: a sequence, a map) deletes its key. A model without inputs runs with `INPUTS 0`.

`TIMEOUT` bounds the time in the queue; when it passes, the reply is `+TIMEDOUT` and nothing is stored.
""",
    "scripts": """\
# Script commands

A script is an ordinary Redis hash that holds TorchScript source. A function that is an entry point takes `(tensors:
List[Tensor], keys: List[str], args: List[str])`. KEYS are names handed to the function; they are not opened.
""",
    "dags": """\
# DAG commands

What stands before the first `|>` may come in any order, each at most once. Operations see the LOADed keys and what
earlier operations produced, never the keyspace. An AI.DAGEXECUTE needs one of LOAD, PERSIST and ROUTING. If an
operation fails, no PERSIST key is written.

Three words are ours: `EX seconds` or `KEEPTTL` sets the expiry of the PERSIST keys in the same transaction, and
`IFUNCHANGED` commits only if the LOADed keys are unchanged since they were read, else the reply is `-CONFLICT`.
""",
    "admin": """\
# Administration

AI.INFO counts per sidecar; `FULL`, which is ours, adds queue times, batch sizes and latencies. AI.CONFIG LOADBACKEND
loads installed plugins only, whatever the path.
""",
}

_MULTI = {
    "takes part": "takes part in the transaction",
    "may fail": "takes part, or fails in its slot of EXEC",
    "refused": "queued, then fails in its slot of EXEC",
}


def render_page(group: str) -> str:
    """One group's page."""
    rows = [row for row in COMMANDS.values() if row.group == group]
    sections = [render_command(row) for row in rows]
    return "\n".join([INTRODUCTIONS[group], *sections]) + "\n<!-- Written by scripts/gen_commands.py. -->\n"


def render_command(row: CommandSpec) -> str:
    """One command's section."""
    name = row.name.decode()
    lines = [f"## {name}", ""]
    if row.replaced_by:
        lines += [f"Deprecated; use {row.replaced_by}. It is as fast as the new command.", ""]
    lines += [row.summary, "", "```", row.syntax, "```", ""]
    lines += [
        f"- Since: RedisAI {row.since}",
        f"- Complexity: {row.complexity}",
        f"- Flags: {', '.join(flag for flag in row.flags if flag != 'module')}",
        f"- In MULTI: {_MULTI[row.in_multi]}",
        f"- In a DAG: {'yes' if row.in_dag else 'no'}",
        "",
        "```",
    ]
    for command, reply in row.examples:
        lines += [command, f" -> {reply}"]
    return "\n".join([*lines, "```", ""])


def main() -> int:
    """Write the pages, or compare them with the table."""
    stale = []
    for group in INTRODUCTIONS:
        page, text = PAGES / f"{group}.md", render_page(group)
        if page.exists() and page.read_text() == text:
            continue
        stale.append(page)
        if "--check" not in sys.argv[1:]:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text)
    for page in stale:
        print(f"{'stale' if '--check' in sys.argv[1:] else 'written'}: {page.relative_to(ROOT)}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
