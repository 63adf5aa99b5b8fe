"""The process that manages engine processes, as the supervisor starts it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

from redisai_py.config import Config
from redisai_py.serve.heartbeat import ALIVE
from redisai_py.serve.manager_line import DOOR


def test_it_outlives_the_supervisor_as_long_as_a_front_door_is_there() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, door:
        fd = theirs.fileno()
        command = [sys.executable, "-m", "redisai_py.serve.manager_process", str(fd)]
        process = subprocess.Popen(command, pass_fds=[fd], stderr=subprocess.PIPE, text=True)
        ours.settimeout(20)
        ours.send(json.dumps({"config": Config(isolation="all").to_json()}).encode())
        with far:
            socket.send_fds(ours, [DOOR], [far.fileno()])
        assert ours.recv(100) == ALIVE
        time.sleep(1.2)
        theirs.close()
        ours.close()  # with a heartbeat that nobody has read
        time.sleep(0.5)
        assert process.poll() is None
        door.send(json.dumps({"op": "import", "id": 1, "backend": "NOBODY_HAS_IT"}).encode())
        door.settimeout(20)
        answer = json.loads(door.recv(4096))
        assert (answer["id"], answer["missing"]) == (1, True)
        door.close()
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
