"""When one of several front doors may poll: if the others leave it a core, and one to Redis and the clients."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from redisai_py.frontdoor.process_group import ProcessGroup, SharedCores
from redisai_py.serve.door_page import DoorPage


class Door:
    """A front door on a machine with so many cores, with a clock and a CPU time that the test sets."""

    def __init__(self, page: DoorPage, number: int, cores: float) -> None:
        nobody = socket.socket()
        nobody.close()
        self.now = 100.0
        self.cpu = 0.0
        group = ProcessGroup(number, page.take_seat(number), nobody, nobody, page)
        self._cores = SharedCores(group, cores, lambda: self.now, lambda: self.cpu)

    def after(self, elapsed_s: float, cpu_s: float, *, computes: bool = False) -> bool:
        """Whether it may poll after such a window."""
        self.now += elapsed_s
        self.cpu += cpu_s
        return not self._cores.wanted(computes)


@pytest.fixture
def page() -> Iterator[DoorPage]:
    made = DoorPage.make()
    yield made
    made.close()


def test_one_polls_while_the_others_are_idle(page: DoorPage) -> None:
    first, second = Door(page, 1, 2), Door(page, 2, 2)
    assert second.after(1.0, 0.001), "a metrics request is not in the way"
    for _ in range(3):
        assert first.after(0.005, 0.005)


def test_two_that_are_busy_do_not_poll_on_two_cores(page: DoorPage) -> None:
    first, second = Door(page, 1, 2), Door(page, 2, 2)
    assert first.after(0.005, 0.005)
    assert not second.after(0.005, 0.003)
    assert not first.after(0.005, 0.005)
    second.now += 0.1  # what it said of itself is old by then
    first.now += 0.1
    assert first.after(0.005, 0.005)


@pytest.mark.parametrize(("cores", "may"), [(4.0, True), (3.0, True), (2.5, False)])
def test_where_there_are_cores_for_all_they_poll(page: DoorPage, cores: float, may: bool) -> None:
    doors = [Door(page, number, cores) for number in (1, 2)]
    for door in doors:
        door.after(0.005, 0.005)
    assert [door.after(0.005, 0.005) for door in doors] == [may, may]


def test_one_that_computes_needs_a_core_whatever_its_own_process_used(page: DoorPage) -> None:
    first, second = Door(page, 1, 2), Door(page, 2, 2)
    second.after(0.005, 0.0001, computes=True)
    assert not first.after(0.005, 0.001)
