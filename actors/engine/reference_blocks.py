"""Who owns which block of the reference engine's KV cache, and its own prefix cache over them.

This prefix cache is the oracle of the demo: KV that comes back through Penstock must lead to
exactly the answer that KV kept here leads to. It therefore shares no code with Penstock's keys or
table.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

from penstock.runtime.errors import CapacityError


class OutOfBlocks(CapacityError):
    """Nobody's: the engine's KV cache has no room for the sequence beside those that run."""


def chunk_digests(tokens: Sequence[int], chunk_tokens: int) -> list[bytes]:
    """One digest for each whole chunk, each over all tokens up to that chunk's end."""
    chain, digests = hashlib.sha256(), []
    for end in range(chunk_tokens, len(tokens) + 1, chunk_tokens):
        chain.update(array("I", tokens[end - chunk_tokens : end]).tobytes())
        digests.append(chain.digest())
    return digests


class BlockPool:
    """Counts references to blocks, and keeps the chunks of finished prompts while there is room.

    A block is free (no reference), or held by sequences (one each) and by the prefix cache (one).
    The least recently used chunk goes first.
    """

    def __init__(self, *, blocks: int, blocks_per_chunk: int) -> None:
        self._references = [0] * blocks
        self._free = list(reversed(range(blocks)))
        self._kept: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()  # digest -> its blocks
        self._blocks_per_chunk = blocks_per_chunk

    @property
    def blocks_free(self) -> int:
        """Blocks that can be had without dropping anything from the prefix cache."""
        return len(self._free)

    def match(self, digests: Sequence[bytes]) -> list[int]:
        """Blocks of the longest kept prefix of `digests`, each with a reference for the caller."""
        matched: list[int] = []
        for digest in digests:
            if digest not in self._kept:
                break
            matched.extend(self._kept[digest])
        self._touch(digests[: len(matched) // self._blocks_per_chunk])
        self._hold(matched)
        return matched

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with a reference each, after dropping kept chunks where room is needed.

        Raises OutOfBlocks, and then takes none.
        """
        while len(self._free) < count and self._kept:
            self.release(self._kept.popitem(last=False)[1])
        if len(self._free) < count:
            raise OutOfBlocks(
                f"{count} blocks needed, {len(self._free)} of {len(self._references)} can be had: "
                "give the engine a larger KV cache or shorten the prompt"
            )
        blocks = [self._free.pop() for _ in range(count)]
        self._hold(blocks)
        return blocks

    def keep(self, digests: Sequence[bytes], blocks: Sequence[int]) -> None:
        """Keep the chunks `digests`, which lie in `blocks`; a kept one stays where it is."""
        size = self._blocks_per_chunk
        assert len(blocks) >= len(digests) * size, (len(blocks), len(digests))
        for index, digest in enumerate(digests):
            if digest not in self._kept:
                self._kept[digest] = tuple(blocks[index * size : (index + 1) * size])
                self._hold(self._kept[digest])
        self._touch(digests)

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one reference to each of `blocks`."""
        for block in blocks:
            assert self._references[block] > 0, block
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free.append(block)

    def validate(self) -> None:
        """Check the invariants; for tests."""
        held_by_cache = [block for blocks in self._kept.values() for block in blocks]
        assert len(set(held_by_cache)) == len(held_by_cache), "a block is kept for two chunks"
        assert all(self._references[block] > 0 for block in held_by_cache)
        assert sorted(self._free) == [b for b, n in enumerate(self._references) if n == 0]

    def _hold(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._references[block] += 1

    def _touch(self, digests: Sequence[bytes]) -> None:
        for digest in reversed(
            digests
        ):  # suffix first: a prefix is always newer than what follows it
            self._kept.move_to_end(digest)
