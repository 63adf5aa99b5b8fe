"""Transcripts: commands and the replies they must have, kept as text, and how the text is read.

A file of `examples/` holds blocks; a block is one test, on one connection to an empty Redis:

    == AI.TENSORGET | 01 section 3.2 | options in any order
    given SET plain x
    AI.TENSORSET w INT8 2 1 VALUES 3 4   -> +OK
    AI.TENSORGET w values meta
      -> ["dtype", "INT8", "shape", [:2, :1], "values", [:3, :4]]
    AI.TENSORSET n INT8 1 VALUES -1      -> -ERR invalid value | ours[negative-integers] -> +OK

- A line that begins with a blank continues the one before it. `given` sets the stage: its reply may be anything but an
  error.
- Words are divided by blanks; `"..."` holds one with blanks; `\\xff`, `\\0`, `\\n` and `\\\\` are bytes. `<name>` is
  the content of that name (`contents.py`), `<name:1/2>` the first half of it.
- Replies: `+simple`, `-error`, `:integer`, `"bulk"`, `[array]`, `nil`, and of RESP3 `,double`, `{map}`, `(big number`.
  A bulk string that is the content of a name is shown as `"<name>"`. `...` matches anything. ARITY is Redis's own text.
- `ours[id]` gives our reply where it differs from RedisAI's on purpose; `id` is a row of docs/known-differences.toml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

__all__ = ["EXAMPLES", "Block", "Step", "matches", "read_blocks", "read_reply", "request_bytes"]

EXAMPLES = Path(__file__).with_name("examples")

_STEP = re.compile(r"(?P<words>.*?)\s+-> (?P<theirs>.*?)(?: \| ours\[(?P<id>[a-z0-9-]+)\] -> (?P<ours>.*))?")
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
_ESCAPES = {b"0": b"\0", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_CONTENT = re.compile(r"<([a-z0-9_]+)(?::(\d+)/(\d+))?>")


@dataclass(frozen=True)
class Step:
    """One command.

    theirs: the reply of RedisAI, None for `given`.   ours: our own where it differs.   difference: the row's id.
    """

    words: str
    theirs: str | None
    ours: str | None
    difference: str | None

    @property
    def expected(self) -> str:
        """What this server must answer."""
        reply = self.ours or self.theirs or ""
        name = _WORD.findall(self.words)[0][1]
        return reply.replace("ARITY", f"-ERR wrong number of arguments for '{name.lower()}' command")


@dataclass(frozen=True)
class Block:
    """One test. command: what it is about.   source: where RedisAI's behaviour is described."""

    file: str
    command: str
    source: str
    title: str
    steps: list[Step] = field(default_factory=list)

    @property
    def id(self) -> str:
        """For a failing test's name."""
        return f"{self.file}: {self.command}: {self.title}"


def read_blocks(directory: Path = EXAMPLES) -> list[Block]:
    """All blocks of all files, in order."""
    blocks = [block for path in sorted(directory.glob("*.txt")) for block in _blocks(path)]
    ids = [block.id for block in blocks]
    doubles = {name for name in ids if ids.count(name) > 1}
    if doubles:
        raise ValueError(f"two blocks with one title: {sorted(doubles)}")
    return blocks


def _blocks(path: Path) -> Iterator[Block]:
    block: Block | None = None
    for number, line in _logical_lines(path.read_text()):
        if line.startswith("== "):
            if block is not None:
                yield block
            command, source, title = (part.strip() for part in line[3:].split(" | "))
            block = Block(path.stem, command, source, title)
        elif block is None:
            raise ValueError(f"{path.name}:{number}: a command before the first block")
        else:
            block.steps.append(_step(line, f"{path.name}:{number}"))
    if block is not None:
        yield block


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    joined, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") or not line.strip():
            continue
        if line[0] == " ":
            joined = f"{joined} {line.strip()}"
            continue
        if joined:
            yield start, joined
        joined, start = line.rstrip(), number
    if joined:
        yield start, joined


def _step(line: str, where: str) -> Step:
    if line.startswith("given "):
        return Step(line.removeprefix("given "), None, None, None)
    match = _STEP.fullmatch(line)
    if match is None:
        raise ValueError(f"{where}: no reply")
    return Step(match["words"], match["theirs"], match["ours"], match["id"])


def request_bytes(words: str, contents: Mapping[str, bytes]) -> bytes:
    """The command's bytes on the wire."""
    argv = [_word(quoted or bare, contents) for quoted, bare in _WORD.findall(words)]
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in argv)


def _word(text: str, contents: Mapping[str, bytes]) -> bytes:
    match = _CONTENT.fullmatch(text)
    if match is None:
        return _ESCAPE.sub(_unescape, text.encode())
    content = contents[match[1]]
    if match[2] is None:
        return content
    part, parts = int(match[2]), int(match[3])
    return content[len(content) * (part - 1) // parts : len(content) * part // parts]


def _unescape(match: re.Match[bytes]) -> bytes:
    word = match[1]
    return bytes.fromhex(word[1:].decode()) if len(word) == 3 else _ESCAPES.get(word, word)


def matches(actual: str, expected: str) -> bool:
    """Whether a reply is as expected; `...` there matches anything."""
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    return re.fullmatch(pattern, actual, re.DOTALL) is not None


def read_reply(stream: BinaryIO, names: Mapping[bytes, str]) -> str:
    """Read one reply and write it as transcripts do. names: contents that are shown by their names."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the server closed the connection")
    kind, word = chr(line[0]), line[1:-2]
    if kind in "$=!":
        if word == b"-1":
            return "nil"
        data = stream.read(int(word) + 2)[:-2]
        return f'"<{names[data]}>"' if data in names else '"' + _show(data).replace('"', '\\"') + '"'
    if kind in "*~>%":
        if word == b"-1":
            return "nil"
        items = [read_reply(stream, names) for _ in range(int(word) * (2 if kind == "%" else 1))]
        left, right = "{}" if kind == "%" else "[]"
        return f"{left}{', '.join(items)}{right}"
    return "nil" if kind == "_" else kind + _show(word)


def _show(data: bytes) -> str:
    text = data.decode("latin-1")
    return "".join(c if " " <= c <= "~" else f"\\x{ord(c):02x}" for c in text)
