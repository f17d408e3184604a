"""The arena as the node creates it and as an engine maps it."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock._native import Arena, ArenaMapping, ArenaRefused, Pages

MIB = 1024**2
GIB = 1024**3
MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena(bytes=8 * MIB)
    yield arena
    arena.close()


def run_python(script: str, *arguments: str) -> str:
    """Run `script` in a fresh interpreter without threads; it may fork."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def mapping_field(address: int, name: str) -> list[str]:
    """What the kernel says of the mapping that begins at `address`."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            inside = int(words[0].split("-")[0], 16) == address
        elif inside and words[0] == f"{name}:":
            return words[1:]
    raise AssertionError(f"nothing is mapped at {address:#x}")


def mapping_flags(address: int) -> set[str]:
    return set(mapping_field(address, "VmFlags"))


def resident_bytes(address: int) -> int:
    return int(mapping_field(address, "Rss")[0]) * 1024


def test_it_says_what_pages_it_got_and_why(arena: Arena) -> None:
    assert arena.bytes == 8 * MIB
    assert arena.address % arena.page_bytes == 0
    hugetlb = arena.pages in {Pages.HUGE_2M, Pages.HUGE_1G}
    # 8 MiB: never a page of 1 GiB.
    assert arena.page_bytes == (
        os.sysconf("SC_PAGE_SIZE") if arena.pages is Pages.SMALL else 2 * MIB
    )
    assert (arena.huge_page_reason == "") == hugetlb, arena.huge_page_reason
    assert (arena.prefaulted_bytes == arena.bytes) == hugetlb


def test_a_size_that_is_no_multiple_of_a_huge_page_gets_others() -> None:
    odd = Arena(bytes=8 * MIB + 4096)
    assert odd.pages in {Pages.SMALL, Pages.TRANSPARENT}
    assert "multiple" in odd.huge_page_reason
    odd.view(8 * MIB, 4096)[-1] = 1
    odd.close()


def test_it_is_spread_over_memory_nodes_or_says_why_not(
    arena: Arena, record_property: Callable[[str, object], None]
) -> None:
    record_property("numa", arena.numa_reason)
    print(f"{arena.numa_nodes} memory node(s): {arena.numa_reason}")
    policies = {
        line.split()[1]
        for line in Path("/proc/self/numa_maps").read_text().splitlines()
        if int(line.split()[0], 16) == arena.address
    }
    if arena.numa_reason.startswith("interleaved"):
        assert arena.numa_nodes > 1
        assert any(policy.startswith("interleave") for policy in policies), policies
    elif arena.numa_nodes == 1:
        assert "one memory node" in arena.numa_reason or "does not say" in arena.numa_reason
    else:
        assert "refused to interleave" in arena.numa_reason


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (0, "multiple of 4096"),
        (4095, "multiple of 4096"),
        (8 * MIB + 1, "multiple of 4096"),
        (1 << 52, "ask for less"),
        (MEMORY_BYTES // 4096 * 4096 + 64 * GIB, "ask for less"),
    ],
)
def test_a_size_that_cannot_be_is_refused(size: int, says: str) -> None:
    with pytest.raises(ArenaRefused, match=says):
        Arena(bytes=size)


def test_no_descriptor_left_is_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(ArenaRefused, match=os.strerror(errno.EMFILE)):
            Arena(bytes=8 * MIB)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nobody_can_change_its_size(arena: Arena) -> None:
    for size in (0, 4 * MIB, 16 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fd, size)
    with pytest.raises(PermissionError):  # nor seal it further, against the node's own writes
        fcntl.fcntl(arena.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert os.fstat(arena.fd).st_size == 8 * MIB


def test_an_engine_sees_what_the_node_wrote_and_keeps_no_descriptor(arena: Arena) -> None:
    received = os.dup(arena.fd)
    mapping = ArenaMapping(fd=received, bytes=arena.bytes)
    os.close(received)
    arena.view(5 * MIB, 5)[:] = b"hello"
    assert bytes(mapping.view(5 * MIB, 5)) == b"hello"
    mapping.view(5 * MIB, 1)[:] = b"j"
    assert bytes(arena.view(5 * MIB, 5)) == b"jello"
    mapping.close()
    mapping.close()
    with pytest.raises(ArenaRefused, match="closed"):
        mapping.view(0, 1)


def test_a_file_that_is_no_arena_is_not_mapped(arena: Arena, tmp_path: Path) -> None:
    with pytest.raises(ArenaRefused, match="announced"):
        ArenaMapping(fd=arena.fd, bytes=arena.bytes + 4096)
    with pytest.raises(ArenaRefused, match="announced"):
        ArenaMapping(fd=arena.fd, bytes=0)
    with pytest.raises(ArenaRefused, match="no arena"):
        ArenaMapping(fd=-1, bytes=4096)
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(4096)
        with pytest.raises(ArenaRefused, match="not sealed"):
            ArenaMapping(fd=file.fileno(), bytes=4096)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 8 * MIB + 1), (8 * MIB, 1), (8 * MIB + 1, 0), (4096, 2**64 - 100), (2**64 - 1, 1)],
)
def test_a_range_outside_is_refused(arena: Arena, offset: int, size: int) -> None:
    with pytest.raises(ArenaRefused, match="do not lie inside"):
        arena.view(offset, size)


def test_offsets_beyond_4_gib_do_not_wrap() -> None:
    """A20: offsets are 64 bits wide everywhere. Sparse: only what is touched is backed.

    Seen to fail with `offset` cut to 32 bits in Mapping::range: byte 1 MiB then read b"far".
    """
    if MEMORY_BYTES < 6 * GIB:
        pytest.skip("needs a machine with 6 GiB of memory, of which it uses a few pages")
    arena = Arena(bytes=6 * GIB)
    if arena.pages not in {Pages.SMALL, Pages.TRANSPARENT}:
        assert arena.prefaulted_bytes == 6 * GIB
    mapping = ArenaMapping(fd=arena.fd, bytes=6 * GIB)
    far = 4 * GIB + 1 * MIB
    arena.view(far, 3)[:] = b"far"
    arena.view(6 * GIB - 3, 3)[:] = b"end"
    assert bytes(mapping.view(far, 3)) == b"far"
    assert bytes(mapping.view(6 * GIB - 3, 3)) == b"end"
    assert bytes(mapping.view(far - 4 * GIB, 3)) == bytes(3)
    assert bytes(mapping.view(2 * GIB - 3, 3)) == bytes(3)
    mapping.close()
    arena.close()


def test_closing_ends_it_once_no_view_is_left() -> None:
    arena = Arena(bytes=8 * MIB)
    address, fd = arena.address, arena.fd
    assert {"dc", "dd"} <= mapping_flags(address)  # not for forked children, not for core dumps
    view = arena.view(0, 4)
    view[:] = b"kept"
    arena.close()
    arena.close()
    assert arena.fd == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(ArenaRefused, match="closed"):
        arena.view(0, 1)
    assert bytes(view) == b"kept"
    view.release()
    with pytest.raises(AssertionError, match="nothing is mapped"):
        mapping_flags(address)


def test_prefaulting_backs_all_of_it_in_the_background() -> None:
    arena = Arena(bytes=96 * MIB)
    arena.start_prefault(threads=2)
    with pytest.raises(ArenaRefused, match="already"):
        arena.start_prefault()
    give_up = time.monotonic() + 15
    while arena.prefaulted_bytes < arena.bytes and not arena.prefault_error:
        os.sched_yield()
        assert time.monotonic() < give_up, arena.prefaulted_bytes
    assert arena.prefault_error == ""
    assert os.fstat(arena.fd).st_blocks * 512 == arena.bytes
    arena.close()
    with pytest.raises(ArenaRefused, match="closed"):
        Arena.start_prefault(_closed_arena())


def _closed_arena() -> Arena:
    arena = Arena(bytes=4096)
    arena.close()
    return arena


def test_an_engine_enters_it_into_its_page_table_in_the_background() -> None:
    arena = Arena(bytes=48 * MIB)
    mapping = ArenaMapping(fd=arena.fd, bytes=arena.bytes)
    mapping.start_prefault(threads=2)
    with pytest.raises(ArenaRefused, match="already"):
        mapping.start_prefault()
    give_up = time.monotonic() + 15
    while resident_bytes(mapping.address) < arena.bytes:
        os.sched_yield()
        assert time.monotonic() < give_up
    mapping.close()
    with pytest.raises(ArenaRefused, match="closed"):
        mapping.view(0, 1)
    arena.close()


@pytest.mark.parametrize("threads", [0, 65])
def test_prefaulting_with_a_wrong_number_of_threads_is_refused(arena: Arena, threads: int) -> None:
    with pytest.raises(ArenaRefused, match="give 1 to 64"):
        arena.start_prefault(threads=threads)
    with pytest.raises(ArenaRefused, match="give 1 to 64"):
        ArenaMapping(fd=arena.fd, bytes=arena.bytes).start_prefault(threads=threads)


def test_a_forked_child_does_not_have_the_mapping() -> None:
    """C11: a child that outlives its parent must not keep the arena's memory mapped."""
    printed = run_python(
        """
        import os, sys
        from pathlib import Path
        from penstock._native import Arena, ArenaMapping, ArenaRefused

        arena = Arena(bytes=8 << 20)
        mapping = ArenaMapping(fd=arena.fd, bytes=arena.bytes)
        arena.view(0, 4)[:] = b"mine"
        maps = lambda: Path("/proc/self/maps").read_text().count("penstock-arena")
        before = maps()
        child = os.fork()
        if child == 0:
            refused = 0
            for side in (arena, mapping):
                try:
                    side.view(0, 1)
                except ArenaRefused as refusal:
                    refused += "forked" in str(refusal)
            # Something else's memory now lies where the arena was; closing must not take it away.
            anonymous = [bytearray(16 << 20) for _ in range(4)]
            arena.close()
            mapping.close()
            assert sum(map(len, anonymous)) == 64 << 20
            os._exit(0 if refused == 2 and maps() == 0 else 1)
        _, status = os.waitpid(child, 0)
        print(before, os.waitstatus_to_exitcode(status), bytes(arena.view(0, 4)).decode())
        """
    )
    assert printed == "2 0 mine"


def test_an_executed_program_does_not_have_the_descriptor() -> None:
    printed = run_python(
        """
        import subprocess, sys
        from penstock._native import Arena

        arena = Arena(bytes=8 << 20)
        script = (
            "import os\\n"
            "names = []\\n"
            "for fd in os.listdir('/proc/self/fd'):\\n"
            "    try: names.append(os.readlink('/proc/self/fd/' + fd))\\n"
            "    except FileNotFoundError: pass\\n"
            "print(sum('penstock-arena' in name for name in names))"
        )
        subprocess.run([sys.executable, "-c", script], close_fds=False, check=True)
        """
    )
    assert printed == "0"
