"""What the manager of engine processes keeps of models that come and go. Its processes are real."""

from __future__ import annotations

import pytest

from redisai_py.engine.isolation.managed import ManagedProcess, Placement, Wanted
from redisai_py.engine.isolation.manager import Manager
from redisai_py.engine.isolation.settings import IsolationSettings
from redisai_py.engine.isolation.verdicts import Verdict


class Door:
    def placed(self, session: int, placement: Placement) -> None:
        self.number = placement.process
        placement.control.close()

    def has_ended(self, process: int) -> None:
        pass

    def judged(self, process: int, verdict: Verdict) -> None:
        pass


def sizes(process: ManagedProcess) -> dict[str, int]:
    return {name: len(kept) for name, kept in vars(process.programs).items()}


def test_a_process_that_serves_for_long_keeps_no_account_of_former_models() -> None:
    pytest.importorskip("onnxruntime")
    manager, door, other = Manager(IsolationSettings(isolation="all", engine_processes=1)), Door(), Door()
    try:
        for each in (door, other):
            manager.welcome(each)
        assert manager.place(door, Wanted(0, "stays", "ONNX"))
        (process,) = manager._processes.values()
        for number in range(1, 1001):
            for each in (door, other):
                manager.place(each, Wanted(number, f"stored {number}", "ONNX"))
            manager.rename(f"stored {number}", f"m{number}")
            assert sizes(process)["_identities"] == 2
            for each in (door, other):
                manager.leave(each, number, each.number)
        kept = sizes(process)
        assert kept.pop("_left") <= 64
        assert set(kept.values()) == {1}
        assert list(manager._processes.values()) == [process], "it was one process all along"
        manager.left(other)
        manager.leave(door, 0, door.number)
        assert not process.programs
    finally:
        manager.close()
