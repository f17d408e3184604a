"""What a starting node believes to be available, on made-up machines and on this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.actors.memory import AvailableMemory, available_memory, free_huge_page_bytes

MIB = 1024**2
MEMINFO = "MemTotal: 24000000 kB\nMemFree: 100 kB\nMemAvailable:   2048000 kB\n"


def machine(root: Path, *, cgroup: str, mounts: str, meminfo: str = MEMINFO) -> Path:
    proc = root / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(meminfo)
    (proc / "self/cgroup").write_text(cgroup)
    (proc / "self/mountinfo").write_text(mounts.format(root=root))
    return proc


def group(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text + "\n")


V2_MOUNT = "31 23 0:28 / {root}/cg rw,relatime - cgroup2 cgroup2 rw\n"
V1_MOUNT = "35 31 0:32 {{mount_root}} {root}/cg rw,relatime - cgroup cgroup rw,memory\n"


def test_the_machine_itself(tmp_path: Path) -> None:
    proc = machine(tmp_path, cgroup="0::/a\n", mounts=V2_MOUNT)
    assert available_memory(proc=proc) == AvailableMemory(2048000 * 1024, "MemAvailable")


def test_an_old_kernel_says_free_only(tmp_path: Path) -> None:
    proc = machine(tmp_path, cgroup="", mounts="", meminfo="MemFree: 100 kB\n")
    assert available_memory(proc=proc) == AvailableMemory(100 * 1024, "MemFree")


def test_the_tightest_group_above_counts_and_its_page_cache_does_not(tmp_path: Path) -> None:
    proc = machine(tmp_path, cgroup="0::/pod/box\n", mounts=V2_MOUNT)
    group(tmp_path / "cg", {"memory.current": "1"})  # the root has no limit file
    group(
        tmp_path / "cg/pod",
        {
            "memory.max": str(100 * MIB),
            "memory.current": str(90 * MIB),
            "memory.stat": f"anon 5\ninactive_file {30 * MIB}",
        },
    )
    group(tmp_path / "cg/pod/box", {"memory.max": "max", "memory.current": str(80 * MIB)})
    expected = AvailableMemory(40 * MIB, "memory limit of control group /pod")
    assert available_memory(proc=proc) == expected


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    proc = machine(tmp_path, cgroup="0::/\n", mounts=V2_MOUNT)
    group(tmp_path / "cg", {"memory.max": str(MIB), "memory.current": str(2 * MIB)})
    assert available_memory(proc=proc).bytes == 0


@pytest.mark.parametrize(
    ("mount_root", "cgroup"),
    [
        ("/", "4:memory:/\n0::/ignored\n"),  # the group's namespace hides what is above
        ("/docker/1", "4:memory:/docker/1\n"),  # the mount shows the group as its root
        ("/docker/1", "4:cpu,memory:/elsewhere\n"),  # and the name comes from another namespace
        ("/", "4:memory:/../other\n"),
    ],
)
def test_version_1_in_a_container(tmp_path: Path, mount_root: str, cgroup: str) -> None:
    mounts = V1_MOUNT.format(root=tmp_path).format(mount_root=mount_root)
    proc = machine(tmp_path, cgroup=cgroup, mounts=mounts)
    group(
        tmp_path / "cg",
        {
            "memory.limit_in_bytes": str(64 * MIB),
            "memory.usage_in_bytes": str(60 * MIB),
            "memory.stat": f"total_inactive_file {2 * MIB}",
        },
    )
    expected = AvailableMemory(6 * MIB, "memory limit of control group /")
    assert available_memory(proc=proc) == expected


def test_version_1_without_a_limit(tmp_path: Path) -> None:
    mounts = V1_MOUNT.format(root=tmp_path).format(mount_root="/")
    proc = machine(tmp_path, cgroup="4:memory:/a\n", mounts=mounts)
    for directory in (tmp_path / "cg", tmp_path / "cg/a"):
        group(
            directory,
            {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "0"},
        )
    assert available_memory(proc=proc).source == "MemAvailable"


def test_this_machine() -> None:
    seen = available_memory()
    assert 0 < seen.bytes < 1 << 60
    assert seen.source
    assert free_huge_page_bytes() >= 0


def test_huge_pages_that_are_free_and_not_promised(tmp_path: Path) -> None:
    group(tmp_path / "hugepages-2048kB", {"free_hugepages": "10", "resv_hugepages": "4"})
    group(tmp_path / "hugepages-1048576kB", {"free_hugepages": "0", "resv_hugepages": "0"})
    assert free_huge_page_bytes(pools=tmp_path) == 12 * MIB
    assert free_huge_page_bytes(pools=tmp_path / "none") == 0
