"""How much memory this process may still take, and who says so.

A node asks before it creates its arena: the machine's own estimate, and every control group above
the process, of both versions. The smallest answer counts, and its source is named, so that a node
that waits can say for what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

KIB = 1024
UNLIMITED_BYTES = 1 << 60  # version 1 writes "no limit" as a number a little below 2**63


@dataclass(frozen=True, slots=True)
class AvailableMemory:
    """What can be taken now without swapping or being killed."""

    bytes: int  # >= 0
    source: str  # "MemAvailable", or "memory limit of control group /a/b"


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """The file names of one version of control groups, and the words of its memory.stat."""

    limit: str
    usage: str
    reclaimable: str  # page cache that goes at once under pressure, counted in the usage


_V1 = _Hierarchy("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Hierarchy("memory.max", "memory.current", "inactive_file")


def available_memory(*, proc: Path = Path("/proc")) -> AvailableMemory:
    """The smallest of what the machine and each control group of this process leave.

    Memory set aside as hugetlb pages is not in it; see `free_huge_page_bytes`.

    Raises OSError when `proc` cannot be read.
    """
    answers = [_machine(proc)]
    for directory, name, hierarchy in _control_groups(proc):
        left = _left_in_group(directory, hierarchy)
        if left is not None:
            answers.append(AvailableMemory(left, f"memory limit of control group {name}"))
    return min(answers, key=lambda answer: answer.bytes)


def free_huge_page_bytes(*, pools: Path = Path("/sys/kernel/mm/hugepages")) -> int:
    """Bytes in the largest single pool of free hugetlb pages; 0 when there are none.

    An arena of at most that size, and a multiple of the pool's page size, takes no other memory.
    """
    largest = 0
    for pool in pools.glob("hugepages-*kB"):
        page_bytes = int(pool.name.removeprefix("hugepages-").removesuffix("kB")) * KIB
        free = _number(pool / "free_hugepages") or 0
        reserved = _number(pool / "resv_hugepages") or 0
        largest = max(largest, (free - reserved) * page_bytes)
    return largest


def _machine(proc: Path) -> AvailableMemory:
    fields = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value
    source = "MemAvailable" if "MemAvailable" in fields else "MemFree"
    return AvailableMemory(int(fields[source].split()[0]) * KIB, source)


def _control_groups(proc: Path) -> Iterator[tuple[Path, PurePosixPath, _Hierarchy]]:
    """The directory and name of this process's memory group and of each group above it."""
    own = _own_groups(proc)
    for line in (proc / "self/mountinfo").read_text().splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        if kind == "cgroup2" and "" in own:
            group, hierarchy = own[""], _V2
        elif kind == "cgroup" and "memory" in options.split(",") and "memory" in own:
            group, hierarchy = own["memory"], _V1
        else:
            continue
        root, mount_point = mount.split(" ")[3:5]
        below = _below(group, PurePosixPath(root))
        for name in (below, *below.parents):
            yield Path(mount_point) / name, PurePosixPath("/") / name, hierarchy


def _own_groups(proc: Path) -> dict[str, PurePosixPath]:
    """Controller -> group; the unified hierarchy has the controller ""."""
    groups = {}
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = PurePosixPath(group)
    return groups


def _below(group: PurePosixPath, root: PurePosixPath) -> PurePosixPath:
    """`group` seen from the mount's `root`.

    A container may mount its own group as the root, and know it under another name: then the
    mount's root is the group.
    """
    if ".." in group.parts or not group.is_relative_to(root):
        return PurePosixPath()
    return group.relative_to(root)


def _left_in_group(directory: Path, hierarchy: _Hierarchy) -> int | None:
    """None: no limit, or not a group that can be read."""
    limit_bytes = _number(directory / hierarchy.limit)
    usage_bytes = _number(directory / hierarchy.usage)
    if limit_bytes is None or usage_bytes is None or limit_bytes >= UNLIMITED_BYTES:
        return None
    return max(0, limit_bytes - usage_bytes + _reclaimable_bytes(directory, hierarchy))


def _reclaimable_bytes(directory: Path, hierarchy: _Hierarchy) -> int:
    try:
        lines = (directory / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(v) for k, v in map(str.split, lines) if k == hierarchy.reclaimable), 0)


def _number(path: Path) -> int | None:
    """None when the file is not there or holds no number ("max")."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
