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
INT16, INT32, INT64, UINT8, UINT16, BOOL, STRING, and, not in RedisAI, FLOAT16, BFLOAT16, UINT32, UINT64, in any case.
Data is little-endian and in C order. A tensor without dimensions is a scalar and needs BLOB or VALUES. A tensor without
data is all zeros.

Numbers in VALUES are decimal integers; floating-point types accept everything that C's `strtod` reads, except `nan`.
Negative integers are accepted. A STRING element may be empty and may end with one NUL; in a BLOB, one NUL follows every
element.
""",
    "models": """\
# Model commands

A model is an ordinary Redis hash with readable fields. The options of AI.MODELSTORE have a fixed order; all arguments
after BLOB are chunks of one blob. INPUTS and OUTPUTS name the nodes of a TF graph; other models know their own, and for
a SavedModel they are optional. `SIGNATURE` selects one of the signatures of a SavedModel or a TFLITE file.

AI.MODELSTORE loads the model. If its shapes are known, the server also runs it once with zeros (the warm-up), so the
first client does not wait for the framework's preparations. The server does not warm up a model that may keep state
between runs, nor one with a loop whose end depends on values, since zeros might never end it. State belongs to one
server, is shared by all clients, and is lost when the model is loaded again; keep a client's state in input and output
tensors.

With BATCHSIZE, the server merges waiting runs along the first dimension. It compares the first merged runs of each kind
of input with single runs. It does not merge a model that gives different results, that may keep state, or that takes
a branch or repeats a loop depending on values of its inputs (`if x.sum() > 0`), because another client's values could
then decide. Branches on sizes and loops over time are merged. `AI.INFO key FULL` gives the reason (`not_merged`), and
lists the model's `inputs` and `outputs`: name, element type and dimensions (-1 is open), null if unknown.

If an output is not a tensor (ONNX: a sequence, a map), the server deletes its key. A model without inputs runs with
`INPUTS 0`.

`TIMEOUT` limits the time in the queue; when it passes, the reply is `+TIMEDOUT` and nothing is stored.
""",
    "scripts": """\
# Script commands

A script is an ordinary Redis hash that holds TorchScript source. An entry point is a function that takes `(tensors:
List[Tensor], keys: List[str], args: List[str])`. KEYS are names that the server passes to the function without reading
them.
""",
    "dags": """\
# DAG commands

The options before the first `|>` may come in any order, each at most once. Operations see the LOADed keys and the
outputs of earlier operations, never the keyspace. AI.DAGEXECUTE needs one of LOAD, PERSIST and ROUTING. If an operation
fails, the server writes no PERSIST key.

Three options do not exist in RedisAI: `EX seconds` or `KEEPTTL` sets the expiry of the PERSIST keys in the same
transaction, and `IFUNCHANGED` commits only if the LOADed keys are unchanged since the DAG read them; otherwise the
reply is `-CONFLICT`.
""",
    "cache": """\
# Prediction cache

A model with a rule has its predictions kept: a request whose inputs were seen before is answered without a run.
[The prediction cache](../prediction-cache.md) says when that pays and what it keeps apart. RedisAI has none.

`CACHE NO` at the end of AI.MODELEXECUTE runs the model without a look, `CACHE REFRESH` runs it and stores what it
gives, and `CACHE ONLY` answers `-MISS` instead of running it.
""",
    "admin": """\
# Administration

Each server has its own AI.INFO counters. `FULL`, which RedisAI does not have, adds queue times, batch sizes and
latencies. AI.CONFIG LOADBACKEND loads installed plugins only and ignores the path.
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
        f"- Since: {row.origin} {row.since}",
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
