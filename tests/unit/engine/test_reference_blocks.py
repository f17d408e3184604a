"""The reference engine's block pool, driven against a list of who holds what."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.actors.engine.reference_blocks import BlockPool, OutOfBlocks, chunk_digests


def test_a_digest_names_all_tokens_up_to_its_chunk() -> None:
    """Goal: a chunk after another beginning is another chunk; a partial chunk has no digest."""
    one, other = [1, 2, 3, 4, 5], [9, 2, 3, 4, 5]
    assert len(chunk_digests(one, 2)) == 2
    assert chunk_digests(one, 2)[1] != chunk_digests(other, 2)[1]
    assert chunk_digests(one, 2)[0] == chunk_digests(one[:2] + other, 2)[0]


def test_kept_chunks_give_way_prefix_last() -> None:
    """Goal: room is made at the end of the least recently used prompt, never under a sequence."""
    pool = BlockPool(blocks=6, blocks_per_chunk=2)
    old = pool.allocate(4)
    pool.keep([b"old0", b"old1"], old)
    pool.release(old)
    pool.allocate(4)
    assert pool.match([b"old0", b"old1"]) == old[:2]
    with pytest.raises(OutOfBlocks, match="1 blocks needed, 0 of 6"):
        pool.allocate(1)
    pool.validate()


class PoolMachine(RuleBasedStateMachine):
    """Sequences over a few prompts come and go; no block may serve two owners or two chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(blocks=12, blocks_per_chunk=2)
        self.sequences: list[tuple[list[bytes], list[int], int]] = []  # digests, blocks, shared

    @rule(prompt=st.integers(0, 3), chunks=st.integers(0, 4))
    def begin(self, prompt: int, chunks: int) -> None:
        digests = [bytes([prompt, index]) for index in range(chunks)]
        shared = self.pool.match(digests)
        try:
            fresh = self.pool.allocate(2 * chunks + 1 - len(shared))
        except OutOfBlocks:
            self.pool.release(shared)
            return
        in_use = {block for _, blocks, _ in self.sequences for block in blocks}
        assert not in_use & set(fresh), "a block was given to two writers"
        self.sequences.append((digests, shared + fresh, len(shared)))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        digests, blocks, _ = self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1)))
        self.pool.keep(digests, blocks)
        self.pool.release(blocks)

    @invariant()
    def is_valid(self) -> None:
        self.pool.validate()
        held = {block for _, blocks, _ in self.sequences for block in blocks}
        assert self.pool.blocks_free <= 12 - len(held)


TestPool = PoolMachine.TestCase
