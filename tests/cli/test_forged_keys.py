"""Keys of artifacts, data sets, runs and jobs that somebody else wrote: one clear line, exit code 1, bounded memory.

Whoever may write `ai:*` decides what stands there; whoever looks at it must not get a traceback, wait for minutes, or
lose the sight of everything else.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.artifacts.models import scaling
from tests.cli.conftest import Redisai, Result

NOWHERE = "sha256:" + "1" * 64
TITLE = "org.opencontainers.image.title"
DIGEST, SIZE = "io.redisai.content.digest", "io.redisai.content.size"


class Forger:
    """Writes what our own code would not."""

    def __init__(self, link: redis.Redis) -> None:
        self.link = link

    def blob(self, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.link.set(f"ai:blob:{digest}", content)
        return digest

    def layer(self, content: bytes, media_type: str = "application/octet-stream", **notes: str) -> dict[str, Any]:
        described = {"mediaType": media_type, "digest": self.blob(content), "size": len(content)}
        return {**described, "annotations": notes} if notes else described

    def version(self, kind: str, layers: list[dict[str, Any]], config: bytes | dict[str, Any] = b"{}") -> None:
        """ai:KIND:a, version 1."""
        described = config if isinstance(config, dict) else self.layer(config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described,
            "layers": layers,
        }
        self.link.hset(f"ai:{kind}:a", mapping={"1": self.blob(json.dumps(manifest).encode()), "next": "2"})

    def parts(self, lines: list[str], digest: str = NOWHERE) -> dict[str, Any]:
        self.link.set(f"ai:parts:{digest}", "\n".join(lines))
        return {"mediaType": "x", "digest": digest, "size": 5, "annotations": {TITLE: "metrics.json"}}

    def data_set(self, layer: dict[str, Any], schema: Any = None, rows: Any = 2) -> None:
        columns = schema or [{"name": "a", "type": "int64"}]
        config = {"format": "redisai.dataset/1", "schema": columns, "shards": [{"rows": rows}]}
        self.version("dataset", [layer], json.dumps(config).encode())

    def shard(self, entry: dict[str, Any], data: bytes = bytes(16)) -> dict[str, Any]:
        header = json.dumps({"a": entry}).encode()
        return self.layer(struct.pack("<Q", len(header)) + header + data)


@pytest.fixture
def forger(bare: redis.Redis, url: str) -> Forger:
    return Forger(bare)


def one_line(done: Result) -> str:
    assert done.code == 1, done
    assert len(done.stderr.strip().splitlines()) == 1, done
    return done.stderr


METRICS = {TITLE: "metrics.json"}
BOMB = {TITLE: "metrics.json", DIGEST: NOWHERE, SIZE: str(10**14)}
ARTIFACTS: dict[str, Callable[[Forger], object]] = {
    "a size that int() does not take": lambda f: f.version("artifact", [f.parts([f"{NOWHERE} \u00b2"])]),
    "a list of parts of 5 MiB": lambda f: f.version("artifact", [f.parts([f"{NOWHERE} 5"] * 70_000)]),
    "a layer longer than it says": lambda f: f.version("artifact", [{**f.layer(b"{}" * 9, **METRICS), "size": 2}]),
    "metrics of 100 TB": lambda f: f.version("artifact", [f.layer(b"x", "application/json+zstd", **BOMB)]),
    "metrics that are not JSON": lambda f: f.version("artifact", [f.layer(b"[" * 5000, **METRICS)]),
    "a config of 6 MiB": lambda f: f.version("artifact", [], b" " * (6 << 20)),
    "a config nested deeply": lambda f: f.version("artifact", [], b"[" * 100_000),
    "a title of nothing": lambda f: f.version("artifact", [f.layer(b"x", **{TITLE: ""})]),
    "no manifest": lambda f: f.link.hset("ai:artifact:a", "1", f.blob(b"\xff\xfe")),
    "versions in a string": lambda f: f.link.set("ai:artifact:a", "x"),
    "aliases in a list": lambda f: f.version("artifact", []) or f.link.rpush("ai:alias:artifact:a", "x"),
}  # fmt: skip


@pytest.mark.parametrize("forge", ARTIFACTS.values(), ids=ARTIFACTS.keys())
def test_artifacts(forge: Callable[[Forger], object], forger: Forger, redisai: Redisai) -> None:
    forge(forger)
    one_line(redisai("artifact", "show", "a"))


def test_a_list_of_parts_that_names_itself(forger: Forger, redisai: Redisai, tmp_path: Path) -> None:
    forger.version("artifact", [forger.parts([f"{NOWHERE} 5"])])
    assert redisai("artifact", "show", "a", "--json").document["layers"][0]["in_redis"] is False
    one_line(redisai("artifact", "get", "a", tmp_path))
    assert redisai("artifact", "gc", "--dry-run").code == 0


def test_what_can_be_read_in_spite_of_it(forger: Forger, redisai: Redisai) -> None:
    """Values that are merely odd: shown, with nothing that could steer a terminal, and JSON for programs."""
    metrics = b'{"\\u001b[31m": 1e999, "b": {"\\ud800": NaN}, "c": %b}' % (b"9" * 4000)
    lineage = b'{"lineage": ["no mapping"]}'
    forger.version("artifact", [forger.layer(metrics, **METRICS)], lineage)
    forger.link.hset("ai:alias:artifact:a", mapping={"production": "abc", b"\xff\n": "1", "old": "1"})
    forger.link.xadd("ai:log:artifact:a", {"event": "deploy", "key": "k", "version": "x", "batchsize": "y"})
    forger.link.xadd("ai:log:artifact:a", {b"\xff": b"\n"}, id=f"{2**63}-1")
    shown = redisai("artifact", "show", "a")
    assert shown.code == 0
    assert "\x1b" not in shown.stdout
    assert redisai("artifact", "show", "a", "--json").document["metrics"]["b"] == {"\ud800": "nan"}
    assert redisai("artifact", "diff", "a", "a").code == 0
    assert redisai("artifact", "log", "a").code == 0
    one_line(redisai("artifact", "rollback", "a", "-k", "k"))
    assert redisai("artifact", "demote", "a", "production").code == 0


def test_a_stranger_s_name_hides_no_other(forger: Forger, redisai: Redisai, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(scaling(2))
    assert redisai("artifact", "publish", "mine", tmp_path / "m.onnx").code == 0
    for name in (b"a b\n", b"\xff", b"../x", b"", b"q:r"):
        for start in (b"ai:artifact:", b"ai:dataset:", b"ai:run:", b"ai:summary:run:"):
            forger.link.hset(start + name, mapping={"1": NOWHERE, "next": "x", "9" * 5000: NOWHERE})
        forger.link.xadd(b"ai:tail:dataset:" + name, {"digest": NOWHERE})
    assert [row["name"] for row in redisai("artifact", "ls", "--json").document] == ["mine"]
    assert redisai("artifact", "gc", "--json").document["removed"] == 0
    assert redisai("artifact", "du").code == 0
    assert redisai("dataset", "ls").code == 0
    forger.link.hset("ai:summary:run:r", "state", "finished")
    assert [row["run"] for row in redisai("train", "ls", "--json").document] == ["r"]


def test_a_version_is_never_published_under_the_number_of_another(
    forger: Forger, redisai: Redisai, tmp_path: Path
) -> None:
    """The field `next` was deleted, or set back, by hand."""
    for factor in (2, 3, 4):
        (tmp_path / f"{factor}.onnx").write_bytes(scaling(factor))
    digests = [redisai("artifact", "publish", "a", tmp_path / "2.onnx", "--json").document["digest"]]
    for factor, damage in ((3, ("hdel", "next")), (4, ("hset", "next", "1"))):
        forger.link.execute_command(damage[0], "ai:artifact:a", *damage[1:])
        digests.append(redisai("artifact", "publish", "a", tmp_path / f"{factor}.onnx", "--json").document["digest"])
    listed = redisai("artifact", "ls", "a", "--json").document
    assert [row["digest"] for row in listed] == digests
    forger.link.hset("ai:artifact:a", "next", "x")
    (tmp_path / "5.onnx").write_bytes(scaling(5))
    assert "the number of the next version" in one_line(redisai("artifact", "publish", "a", tmp_path / "5.onnx"))


COLUMN = {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}
TEXTS = {"dtype": "U8", "shape": [2, 0], "data_offsets": [0, 0]}
FRAME = struct.pack("<IB", 0xFD2FB528, 0b11100000)
"""The head of a zstd frame that says in the next 8 bytes how long its content is."""


def zstd(forger: Forger, content: bytes, size: int) -> dict[str, Any]:
    return forger.layer(content, "x+zstd", **{DIGEST: NOWHERE, SIZE: str(size)})


DATA_SETS: dict[str, Callable[[Forger], object]] = {
    "a number of rows that is a text": lambda f: f.data_set(f.shard(COLUMN), rows="2"),
    "2^63 rows": lambda f: f.data_set(f.shard(COLUMN), rows=2**63),
    "2^39 rows": lambda f: f.data_set(f.shard(COLUMN), rows=2**39),
    "texts of no bytes": lambda f: f.data_set(f.shard(TEXTS, b""), [{"name": "a", "type": "string"}]),
    "70 dimensions": lambda f: f.data_set(f.shard({**COLUMN, "shape": [2] + [1] * 70})),
    "a product of a million sizes": lambda f: f.data_set(f.shard({**COLUMN, "shape": [16] * 1_000_000})),
    "a header of 2^63 bytes": lambda f: f.data_set(f.layer(struct.pack("<Q", 2**63))),
    "a frame that says 2^40 bytes": lambda f: f.data_set(zstd(f, FRAME + struct.pack("<Q", 2**40) + b"\1\0\0", 100)),
    "a frame of 2^40 bytes, as announced": lambda f: f.data_set(zstd(f, FRAME + struct.pack("<Q", 2**40), 2**40)),
    "100 TB of zstd": lambda f: f.data_set(zstd(f, b"x", 10**14)),
    "a schema that is none": lambda f: f.data_set(f.shard(COLUMN), [{"name": ["a"], "type": "int64"}]),
}  # fmt: skip


@pytest.mark.parametrize("forge", DATA_SETS.values(), ids=DATA_SETS.keys())
def test_data_sets(forge: Callable[[Forger], object], forger: Forger, redisai: Redisai) -> None:
    forge(forger)
    one_line(redisai("dataset", "head", "a"))


@pytest.mark.parametrize(
    ("field", "value"), [("schema", "[" * 50_000), ("schema", "{}"), ("dropped", "x"), ("next", "x")]
)
def test_fields_of_a_data_set(field: str, value: str, forger: Forger, redisai: Redisai, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a\n1\n2\n")
    for command in ("put", "append", "seal", "append"):
        assert redisai("dataset", command, "a", *([table] if command != "seal" else [])).code == 0
    forger.link.hset("ai:dataset:a", field, value)
    one_line(redisai("dataset", "seal", "a"))


def test_times_that_no_calendar_has(forger: Forger, redisai: Redisai) -> None:
    data = struct.pack("<qq", 2**63 - 1, 0)
    forger.data_set(forger.shard(COLUMN, data), [{"name": "a", "type": "datetime"}])
    assert redisai("dataset", "head", "a", "--json").document[1] == {"a": "1970-01-01T00:00:00Z"}
    assert redisai("dataset", "head", "a").code == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", "\u00b2"), ("steps", "9" * 5000), ("updated", "inf"), ("launcher", "x:\u00b2"), ("state", "\x1b[31m"),
    ],
)  # fmt: skip
def test_the_summary_of_a_run(field: str, value: str, forger: Forger, redisai: Redisai) -> None:
    summary = {"state": "running", "step": "3", "steps": "9", "metric.loss": "1", field: value}
    forger.link.hset("ai:summary:run:r", mapping=summary)
    for step, loss in enumerate(("1e308", "-1e308", "nan", "x", "0")):
        forger.link.xadd("ai:series:run:r", {"step": step, "loss": loss})
    for command in (("ls",), ("show", "r"), ("show", "r", "--json")):
        done = redisai("train", *command)
        assert done.code == 0, done
        assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    "launch", ["{}", "[" * 50_000, {"script": ["x"]}, {"nproc": "x"}, {"nproc": -1}, {"script": "\0"}], ids=str
)
def test_how_a_run_is_said_to_have_been_started(launch: Any, forger: Forger, redisai: Redisai) -> None:
    whole = {"script": __file__, "arguments": []}
    text = launch if isinstance(launch, str) else json.dumps({**whole, **launch})
    forger.link.hset("ai:summary:run:r", mapping={"state": "stopped", "launch": text})
    assert "does not say how it was started" in one_line(redisai("train", "resume", "r", "-y"))


def test_jobs(forger: Forger, redisai: Redisai) -> None:
    first, second = (forger.link.xadd("ai:jobs", {"kind": "pipeline"}).decode() for _ in range(2))
    forger.link.set(f"ai:job:{first}", "no hash")
    forger.link.hset(f"ai:job:{second}", mapping={"started": "x", "ended": "1e300", "state": "done"})
    listed = redisai("job", "ls", "--json").document
    assert [row["id"] for row in listed] == [second, first]
    assert "WRONGTYPE" in listed[1]["error"]
    one_line(redisai("job", "show", first))
    assert redisai("job", "show", second).code == 0
