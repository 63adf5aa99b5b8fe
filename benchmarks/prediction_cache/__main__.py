"""`python -m benchmarks.prediction_cache`: measure all sides in turn, and report. Needs `benchmarks` on PYTHONPATH."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from harness import models
from harness.report import Pace, environment
from harness.servers import Target, servers
from harness.wire import Client

from benchmarks.prediction_cache.load import Frame, Outcome, drive
from benchmarks.prediction_cache.model import IMAGE, build_classifier, images, zipf
from benchmarks.prediction_cache.report import table, write_report

_INPUTS = 2000
_CLIENTS = 16
_MANY_CLIENTS = 50
_FEATURES = 784
_TTL_S = 3600


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write results and documentation if asked to; 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="once and briefly: shows that all works, not how fast")
    parser.add_argument("--rounds", type=int, default=3, help="measurements per side, interleaved (default: 3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each (default: 4)")
    parser.add_argument("--write", action="store_true", help="keep the results, and write the docs' table")
    args = parser.parse_args(argv)
    rounds, seconds, inputs = (1, 0.3, 50) if args.smoke else (args.rounds, args.seconds, _INPUTS)
    facts = environment(Pace(seconds, rounds))
    with servers() as started:
        result = {**_Bench(started.redisai(), inputs, seconds).measure(rounds), **facts}
    result["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if args.write:
        write_report(result)
    print(table(result), end="")
    print(json.dumps(result["ratios"]), file=sys.stderr)
    return 0


class _Bench:
    """A server with each model twice: `off:NAME` without a rule, `on:NAME` with one."""

    def __init__(self, server: Target, inputs: int, seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._images = images(inputs)
        self._seeds = itertools.count(10)
        self._numbers = itertools.count(1)
        self._client = Client(server.port)
        blobs = {"image": build_classifier(), "tiny": models.blob("onnx_mul"), "features": models.blob("onnx_mlp")}
        for name, blob in blobs.items():
            for side in ("off", "on"):
                self._call("AI.MODELSTORE", f"{side}:{name}", "ONNX", "CPU", "BLOB", blob)
            self._call("AI.CACHE", "SET", f"on:{name}", "TTL", str(_TTL_S))
        self._call("AI.TENSORSET", "image", "FLOAT", "1", *map(str, IMAGE), "BLOB", self._images[0])
        features = np.random.default_rng(3).standard_normal(_FEATURES).astype(np.float32).tobytes()
        self._call("AI.TENSORSET", "features", "FLOAT", "1", str(_FEATURES), "BLOB", features)
        # With MINRUN 0 and no time to say that it does not pay, the fast model shows what a hit costs.
        self._call("AI.CACHE", "SET", "on:features", "TTL", str(_TTL_S), "MINRUN", "0")

    def _call(self, *words: Any) -> Any:
        return self._client.call(*words)

    def measure(self, rounds: int) -> dict[str, Any]:
        """All sides, in turn."""
        found: dict[str, list[Outcome]] = {}
        ratios: dict[str, list[float]] = {}
        for number in range(rounds):
            for name, sides in self._comparisons().items():
                outcomes = {side: run() for side, run in sides.items()}
                for side, outcome in outcomes.items():
                    found.setdefault(f"{name}, {side}", []).append(outcome)
                first, second = outcomes.values()
                ratios.setdefault(name, []).append(second.per_s / first.per_s)
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
        state = {name: self._stats(name) for name in ("on:image", "on:tiny")}
        return {
            "sides": {name: _median(each) for name, each in found.items()},
            "ratios": {name: round(statistics.median(each), 3) for name, each in ratios.items()},
            "stats": state,
        }

    def _comparisons(self) -> dict[str, dict[str, Callable[[], Outcome]]]:
        """Each with the side that the other one is divided by first."""
        seed = next(self._seeds)
        return {
            "Zipf": {"off": lambda: self._zipf("off", seed), "on": lambda: self._zipf("on", seed)},
            "unique": {"off": lambda: self._unique("off"), "on": lambda: self._unique("on")},
            "tiny": {"off": lambda: self._tiny("off"), "on": lambda: self._tiny("on")},
            "all hits, 108 KB": {
                "AI.TENSORGET": lambda: self._by_key("AI.TENSORGET image BLOB"),
                "AI.MODELEXECUTE": lambda: self._by_key("AI.MODELEXECUTE on:image INPUTS 1 image OUTPUTS 1 y"),
            },
            "all hits, 3 KB": {
                "AI.TENSORGET": lambda: self._by_key("AI.TENSORGET features BLOB"),
                "AI.MODELEXECUTE": lambda: self._by_key("AI.MODELEXECUTE on:features INPUTS 1 features OUTPUTS 1 y"),
            },
        }

    def _zipf(self, side: str, seed: int) -> Outcome:
        if side == "on":
            self._call("AI.CACHE", "PURGE", "on:image")
        draws = iter(zipf(len(self._images), 100_000, seed).tolist())
        return self._drive(lambda: _image_frame(f"{side}:image", self._images[next(draws)]), 40)

    def _unique(self, side: str) -> Outcome:
        image = bytearray(self._images[0])

        def frame() -> Frame:
            image[:4] = next(self._numbers).to_bytes(4, "little")
            return _image_frame(f"{side}:image", bytes(image))

        return self._drive(frame, 40)

    def _tiny(self, side: str) -> Outcome:
        key = f"{side}:tiny"
        words = [b"AI.DAGEXECUTE_RO", b"ROUTING", b"r", b"|>", b"AI.TENSORSET", b"x", b"FLOAT", b"1", b"2", b"BLOB"]
        tail = f"|> AI.MODELEXECUTE {key} INPUTS 1 x OUTPUTS 1 y |> AI.TENSORGET y BLOB".encode().split()
        frames = [(_encode([*words, np.array([i, 1], np.float32).tobytes(), *tail]),) for i in range(100)]
        return self._drive(itertools.cycle(frames).__next__, 8)

    def _drive(self, frame: Callable[[], Frame], output_bytes: int) -> Outcome:
        reply = 4 + 2 * 5 + len(f"${output_bytes}\r\n") + output_bytes + 2
        return drive(self._server.port, _CLIENTS, self._seconds, frame, reply)

    def _by_key(self, command: str) -> Outcome:
        words = command.encode().split()
        frame = (_encode(words),)
        with Client(self._server.port) as client:
            length = client.raw_reply_length(frame[0], 1)
        return drive(self._server.port, _MANY_CLIENTS, self._seconds, lambda: frame, length)

    def _stats(self, key: str) -> dict[str, Any]:
        flat = self._call("AI.CACHE", "STATS", key)
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        return {_text(name): _text(value) for name, value in fields.items() if name != b"errors"}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _image_frame(key: str, image: bytes) -> Frame:
    head = [b"AI.DAGEXECUTE_RO", b"ROUTING", b"r", b"|>", b"AI.TENSORSET", b"x", b"FLOAT", b"1"]
    head += [b"%d" % dim for dim in IMAGE] + [b"BLOB"]
    tail = f"|> AI.MODELEXECUTE {key} INPUTS 1 x OUTPUTS 1 y |> AI.TENSORGET y BLOB".encode().split()
    count = b"*%d\r\n" % (len(head) + 1 + len(tail))
    return (count + _words(head) + b"$%d\r\n" % len(image), image, b"\r\n" + _words(tail))


def _words(words: Sequence[bytes]) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _encode(words: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + _words(words)


def _median(outcomes: Sequence[Outcome]) -> dict[str, float]:
    def middle(values: Iterator[float]) -> float:
        return statistics.median(values)

    return {
        "per_s": round(middle(each.per_s for each in outcomes)),
        "p50_ms": round(middle(each.p50_ms for each in outcomes), 3),
        "p99_ms": round(middle(each.p99_ms for each in outcomes), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
