"""What a control group grants, in the layouts of versions 1 and 2, in and outside containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from redisai_py.config import Config
from redisai_py.machine import granted_cores, memory_bytes, usable_cores

GIB = 1024**3


def _root(directory: Path, own: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": own, **files}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return directory


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        pytest.param("0::/", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5, id="container, version 2"),
        pytest.param("0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, None, id="no quota"),
        pytest.param("0::/a/b", {"sys/fs/cgroup/a/cpu.max": "25000 100000"}, 0.25, id="a systemd slice above"),
        pytest.param(
            "0::/a/b",
            {"sys/fs/cgroup/a/cpu.max": "90000 100000", "sys/fs/cgroup/a/b/cpu.max": "20000 100000"},
            0.2,
            id="the smallest counts",
        ),
        pytest.param("0::/docker/0123", {"sys/fs/cgroup/cpu.max": "30000 100000"}, 0.3, id="a path of the host's"),
        pytest.param("0::/../../other", {"sys/fs/cgroup/cpu.max": "30000 100000"}, 0.3, id="a path above the root"),
        pytest.param(
            "4:cpu,cpuacct:/docker/0123\n1:name=systemd:/x",
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "40000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            0.4,
            id="container, version 1",
        ),
        pytest.param(
            "1:cpu:/a\n0::/",
            {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000"},
            None,
            id="version 1 without a quota",
        ),
        pytest.param("0::/", {"sys/fs/cgroup/unified/cpu.max": "10000 100000"}, 0.1, id="both versions"),
        pytest.param("0::/", {"sys/fs/cgroup/cpu.max": "nonsense"}, None, id="nonsense"),
        pytest.param("0::/", {"sys/fs/cgroup/cpu.max": "6400000 100000"}, None, id="more than the machine has"),
    ],
)
def test_cores(tmp_path: Path, own: str, files: dict[str, str], cores: float | None) -> None:
    found = granted_cores(_root(tmp_path, own, files))
    assert found == (usable_cores() if cores is None else cores)


def test_a_system_without_control_groups_grants_all(tmp_path: Path) -> None:
    assert granted_cores(tmp_path) == usable_cores() >= 1
    assert memory_bytes(tmp_path) > GIB // 4


@pytest.mark.parametrize(
    ("own", "file", "text", "limited"),
    [
        ("0::/a", "sys/fs/cgroup/a/memory.max", "67108864", True),
        ("0::/a", "sys/fs/cgroup/memory.max", "67108864", True),
        ("4:memory:/x/y", "sys/fs/cgroup/memory/memory.limit_in_bytes", "67108864", True),
        ("0::/a", "sys/fs/cgroup/a/memory.max", "max", False),
        ("4:memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712", False),
    ],
)
def test_memory(tmp_path: Path, own: str, file: str, text: str, limited: bool) -> None:
    found = memory_bytes(_root(tmp_path, own, {file: text}))
    assert found == 64 * 1024**2 if limited else found > GIB // 4


@pytest.mark.parametrize(
    ("cores", "threads", "spare", "intra"),
    [(0.5, 2, 1, 1), (1.0, 2, 1, 1), (1.5, 3, 1, 1), (2.0, 3, 1, 1), (4.0, 5, 1, 1), (16.0, 5, 1, 4)],
)
def test_threads_follow_the_cores_that_are_granted(
    monkeypatch: pytest.MonkeyPatch, cores: float, threads: int, spare: int, intra: int
) -> None:
    monkeypatch.setattr("redisai_py.config.granted_cores", lambda: cores)
    config = Config()
    resolved = config.resolved()
    assert (resolved.threads_per_queue, config.spare_threads, resolved.intra_op_parallelism) == (threads, spare, intra)
    explicit = Config(threads_per_queue=3)
    assert (explicit.resolved().threads_per_queue, explicit.spare_threads) == (3, 0)
    assert explicit.resolved().intra_op_parallelism == max(1, int(cores) // 3)
    assert Config(intra_op_parallelism=7).resolved().intra_op_parallelism == 7
