"""A measuring stick, not a design: the shortest program that answers AI.TENSORSET (FLOAT, BLOB) and AI.MODELEXECUTE
for one ONNX model, with every tensor in a near cache, outputs written to Redis before the reply, and batches of up to
16.

It checks nothing, keeps nothing coherent, knows one identity and one model: the real server must do all that. It shows
what Python can reach, so that a benchmark can hold the real server against it in the same run:

    redis-server --port 7000 --unixsocket redis.sock --save "" &
    python near_cache.py --port 7001 --redis redis.sock --model model.onnx [--thread]

Without --thread a batch runs on the event loop, with it on a worker thread. Beside RedisAI, 2 cores, 50 clients, in two
separate runs: tiny model 0.88x and 1.15x without --thread, 0.57x and 0.63x with it; an MLP 784-512-512-10 0.92x, and
0.80x to 0.85x. Needs hiredis, uvloop, numpy, onnxruntime.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import queue
import struct
import threading
from typing import Any

import hiredis
import numpy as np
import onnxruntime as ort
import uvloop

SET = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
BATCH = 16

Job = tuple[Any, list[Any], list[bytes]]  # reply, inputs, output keys


def encode(headers: dict[tuple[int, ...], bytes], tensor: Any) -> bytes:
    header = headers.get(tensor.shape)
    if header is None:
        header = struct.pack(f"<4sI{tensor.ndim}q", b"TENS", tensor.ndim, *tensor.shape).ljust(96)
        headers[tensor.shape] = header
    return header + bytes(tensor.tobytes())


class Upstream(asyncio.Protocol):
    """One pipelined connection; `waiting` holds, in order, what to call when each +OK arrives (None: nothing)."""

    def connection_made(self, transport: Any) -> None:
        self.write, self.reader = transport.write, hiredis.Reader()
        self.waiting: collections.deque[Any] = collections.deque()

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while self.reader.gets() is not False:
            reply = self.waiting.popleft()
            if reply is not None:
                reply(b"+OK\r\n")


class NearCache:
    """The whole server."""

    def __init__(self, model: str, thread: bool) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.in_names = [i.name for i in self.session.get_inputs()]
        self.out_names = [o.name for o in self.session.get_outputs()]
        self.thread = thread
        self.cache: dict[bytes, Any] = {}
        self.headers: dict[tuple[int, ...], bytes] = {}
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.pending: list[Job] = []

    async def serve(self, port: int, redis: str) -> None:
        self.loop = asyncio.get_running_loop()
        _, self.upstream = await self.loop.create_unix_connection(Upstream, redis)
        if self.thread:
            threading.Thread(target=self.work, daemon=True).start()
        server = await self.loop.create_server(lambda: Client(self), "127.0.0.1", port)
        await server.serve_forever()

    def run(self, batch: list[Job]) -> bytes:
        """Run jobs as one; the SET commands of all their outputs."""
        if len(batch) == 1:
            split = [self.session.run(self.out_names, dict(zip(self.in_names, batch[0][1], strict=True)))]
        else:
            feed = {name: np.concatenate([job[1][i] for job in batch]) for i, name in enumerate(self.in_names)}
            whole, split, row = self.session.run(self.out_names, feed), [], 0
            for job in batch:
                rows = job[1][0].shape[0]
                split.append([out[row : row + rows] for out in whole])
                row += rows
        commands = []
        for job, outputs in zip(batch, split, strict=True):
            for key, tensor in zip(job[2], outputs, strict=True):
                value = encode(self.headers, tensor)
                self.cache[key] = tensor
                commands.append(SET % (len(key), key, len(value), value))
        return b"".join(commands)

    def publish(self, batch: list[Job], commands: bytes) -> None:
        for reply, _, keys in batch:
            self.upstream.waiting.extend([None] * (len(keys) - 1))
            self.upstream.waiting.append(reply)
        self.upstream.write(commands)

    def work(self) -> None:
        while True:
            batch = [self.jobs.get()]
            while len(batch) < BATCH:
                try:
                    batch.append(self.jobs.get_nowait())
                except queue.Empty:
                    break
            self.loop.call_soon_threadsafe(self.publish, batch, self.run(batch))

    def flush(self) -> None:
        todo, self.pending[:] = list(self.pending), []
        for i in range(0, len(todo), BATCH):
            self.publish(todo[i : i + BATCH], self.run(todo[i : i + BATCH]))


class Client(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: NearCache) -> None:
        self.server = server

    def connection_made(self, transport: Any) -> None:
        self.write, self.reader = transport.write, hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        server = self.server
        cache, upstream, pending = server.cache, server.upstream, server.pending
        self.reader.feed(data)
        while (argv := self.reader.gets()) is not False:
            name = argv[0].upper()
            if name == b"AI.TENSORSET":
                shape = [int(word) for word in argv[3:-2]]
                key, tensor = argv[1], np.frombuffer(argv[-1], np.float32).reshape(shape)
                cache[key], value = tensor, encode(server.headers, tensor)
                upstream.waiting.append(self.write)
                upstream.write(SET % (len(key), key, len(value), value))
            elif name == b"AI.MODELEXECUTE":
                n = int(argv[3])
                job = (self.write, [cache[key] for key in argv[4 : 4 + n]], argv[6 + n : 6 + n + int(argv[5 + n])])
                if server.thread:
                    server.jobs.put(job)
                else:
                    pending.append(job)
                    if len(pending) == 1:
                        server.loop.call_soon(server.flush)
            else:
                self.write(b"+PONG\r\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis", required=True, help="unix socket of a redis-server")
    parser.add_argument("--model", required=True, help="ONNX file with a dynamic first dimension, float32 inputs")
    parser.add_argument("--thread", action="store_true")
    args = parser.parse_args()
    uvloop.run(NearCache(args.model, args.thread).serve(args.port, args.redis))
