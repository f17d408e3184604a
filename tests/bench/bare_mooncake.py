"""The baseline of the mooncake store: the bare client, one object at a time, in a process of its own.

Two clients of the library in one process disturb each other. Arguments: master, host, bytes of an object, objects and
seconds of half a turn, whichever is over first. For each line on the standard input, the number of a turn, it answers
with the GiB/s of its saves and of its loads.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterable
from itertools import cycle


def main(master: str, host: str, size: int, objects_max: int, half_s: float) -> None:
    from mooncake.store import MooncakeDistributedStore

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the library writes to the standard output, too
    client = MooncakeDistributedStore()
    settings = {
        "local_hostname": host,
        "metadata_server": "P2PHANDSHAKE",
        "global_segment_size": "0",
        "local_buffer_size": "0",
        "protocol": "tcp",
        "rdma_devices": "",
        "master_server_addr": master,
    }
    assert client.setup(settings) == 0
    memory = mmap.mmap(-1, size)
    memory.write(os.urandom(size))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert client.register_buffer(address, size) == 0

    def timed(
        move: Callable[[str, int, int], int], turn: int, indices: Iterable[int], done: int
    ) -> tuple[int, float]:
        """(objects, GiB/s)."""
        moved, begin = 0, time.perf_counter()
        for index in indices:
            code = move(f"bare/{size}/{turn}/{index}", address, size)
            assert code == done, code
            moved += 1
            if time.perf_counter() - begin >= half_s:
                break
        return moved, moved * size / 2**30 / (time.perf_counter() - begin)

    for line in sys.stdin:
        turn = int(line)
        saved, save_gib_s = timed(client.put_from, turn, range(objects_max), 0)
        _, load_gib_s = timed(client.get_into, turn, cycle(range(saved)), size)
        answers.write(f"{save_gib_s} {load_gib_s}\n")
    client.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
