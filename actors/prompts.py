"""The prompts of one session: from what the wire carries to packed chunk keys, and back again for deltas.

Tokens become keys under the session's namespace with the prompt's own adapter and salt. The keys of recent lookups are
remembered, oldest forgotten first, so that a growing conversation need not be sent again from its start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from anyio.lowlevel import checkpoint

from penstock.actors.api.errors import Denied, InvalidField, PromptForgotten, TooLarge
from penstock.actors.api.types import EXTRA_BYTES_MAX, KEY_BYTES
from penstock.actors.core.namespace import ADAPTER_BYTES_MAX, SALT_BYTES_MAX, RootDigests
from penstock.actors.keys import NO_EXTRAS, chunk_keys
from penstock.protos import engine_pb2
from penstock.runtime.units import KIB

# Hashed in one step of the loop, about a millisecond's worth; then others have their turn.
TOKEN_BYTES_A_STEP = 512 * KIB
CHUNKS_A_STEP = 1024
TOKEN_BYTES = 4
ENTRY_BYTES = 256  # what remembering a prompt costs beside its keys, salt and adapter


@dataclass(frozen=True, slots=True)
class ResolvedPrompt:
    """`keys` are packed; `parent` is the key of the chunk before them, empty at the prompt's start."""

    keys: bytes
    parent: bytes
    salt: bytes = field(repr=False)
    adapter: bytes

    @property
    def kept_bytes(self) -> int:
        return len(self.keys) + len(self.salt) + len(self.adapter) + ENTRY_BYTES


class Prompts:
    """Key chains of one session. `kept_bytes_max` bounds what is remembered of them."""

    def __init__(
        self,
        roots: RootDigests,
        *,
        chunk_tokens: int,
        chunks_max: int,
        kept_bytes_max: int,
        tenants: Set[bytes] | None = None,
    ) -> None:
        """`tenants`: salts that prompts of this session may have; None: any, and keys of the client's making."""
        self._roots = roots
        self._chunk_tokens = chunk_tokens
        self._chunks_max = chunks_max
        self._kept_bytes_max = kept_bytes_max
        self._tenants = tenants
        self._kept: OrderedDict[int, ResolvedPrompt] = OrderedDict()  # by prompt id, oldest first
        self._kept_bytes = 0  # sum of kept_bytes in _kept, <= kept_bytes_max
        self._made = 0

    def remember(self, prompt: ResolvedPrompt) -> int:
        """A number for `prompt`, by which a later delta may build on it."""
        self._made += 1
        self._kept[self._made] = prompt
        self._kept_bytes += prompt.kept_bytes
        while self._kept_bytes > self._kept_bytes_max and self._kept:
            _, forgotten = self._kept.popitem(last=False)
            self._kept_bytes -= forgotten.kept_bytes
        return self._made

    async def resolve(self, prompt: engine_pb2.Prompt) -> ResolvedPrompt:
        """The keys of a prompt. Others get their turn while a long one is hashed.

        Raises InvalidField, TooLarge, PromptForgotten, Denied.
        """
        check_tenant(prompt, self._tenants)
        if len(prompt.salt) > SALT_BYTES_MAX:
            raise InvalidField("prompt.salt", f"at most {SALT_BYTES_MAX} bytes")
        if len(prompt.adapter) > ADAPTER_BYTES_MAX:
            raise InvalidField("prompt.adapter", f"at most {ADAPTER_BYTES_MAX} bytes: a digest")
        match prompt.WhichOneof("form"):
            case "keys":
                _refuse_extras(prompt)
                keys = self._check_keys("prompt.keys", prompt.keys, kept_chunks=0)
                return ResolvedPrompt(keys, b"", prompt.salt, prompt.adapter)
            case "tokens":
                root = self._roots.digest(prompt.adapter, prompt.salt)
                keys = await self._chain("prompt.tokens", root, prompt.tokens, prompt.extras, 0)
                return ResolvedPrompt(keys, b"", prompt.salt, prompt.adapter)
            case "delta":
                return await self._resolve_delta(prompt)
            case _:
                raise InvalidField("prompt", "send keys, tokens or a delta")

    async def _resolve_delta(self, prompt: engine_pb2.Prompt) -> ResolvedPrompt:
        delta = prompt.delta
        base = self._kept.get(delta.base)
        if base is None:
            raise PromptForgotten(f"prompt {delta.base} is not remembered: send the prompt whole")
        for name, given, own in (
            ("salt", prompt.salt, base.salt),
            ("adapter", prompt.adapter, base.adapter),
        ):
            if given and given != own:
                raise InvalidField(
                    f"prompt.{name}", "a delta has its base's; under another, send the prompt whole"
                )
        self._kept.move_to_end(delta.base)
        base_chunks = len(base.keys) // KEY_BYTES
        kept_chunks = delta.base_chunks or base_chunks
        if kept_chunks > base_chunks:
            raise InvalidField(
                "prompt.delta.base_chunks", f"the base has {base_chunks}, not {kept_chunks}"
            )
        kept = base.keys[: kept_chunks * KEY_BYTES]
        if delta.WhichOneof("more") == "tokens":
            # The chain goes on from its last key, or from the namespace when the base was too short for a chunk.
            root = kept[-KEY_BYTES:] or self._roots.digest(base.adapter, base.salt)
            more = await self._chain(
                "prompt.delta.tokens", root, delta.tokens, prompt.extras, kept_chunks
            )
        else:
            _refuse_extras(prompt)
            more = self._check_keys("prompt.delta.keys", delta.keys, kept_chunks=kept_chunks)
        return replace(base, keys=kept + more)

    # Checks.

    def _check_keys(self, field: str, keys: bytes, *, kept_chunks: int) -> bytes:
        if len(keys) % KEY_BYTES:
            raise InvalidField(field, f"{len(keys)} bytes are no multiple of {KEY_BYTES}")
        self._check_chunks(field, kept_chunks + len(keys) // KEY_BYTES)
        return keys

    async def _chain(
        self,
        field: str,
        root: bytes,
        tokens: bytes,
        extras: Sequence[engine_pb2.ChunkExtra],
        kept_chunks: int,
    ) -> bytes:
        if len(tokens) % TOKEN_BYTES:
            raise InvalidField(field, f"{len(tokens)} bytes are no multiple of {TOKEN_BYTES}")
        chunk_bytes = self._chunk_tokens * TOKEN_BYTES
        chunks = len(tokens) // chunk_bytes
        self._check_chunks(field, kept_chunks + chunks)
        by_chunk = await self._by_chunk(extras, chunks)
        return await chain_in_steps(root, tokens, self._chunk_tokens, extras=by_chunk)

    def _check_chunks(self, field: str, chunks: int) -> None:
        if chunks > self._chunks_max:
            raise TooLarge(field, f"{chunks} chunks, the bound is {self._chunks_max}")

    async def _by_chunk(
        self, extras: Sequence[engine_pb2.ChunkExtra], chunks: int
    ) -> dict[int, bytes]:
        if len(extras) > chunks:
            raise InvalidField(
                "prompt.extras", f"{len(extras)} of them, the prompt has {chunks} whole chunks"
            )
        by_chunk: dict[int, bytes] = {}
        for number, one in enumerate(extras, start=1):
            if one.chunk >= chunks:
                raise InvalidField("prompt.extras", f"the prompt has {chunks} whole chunks")
            if len(one.extra) > EXTRA_BYTES_MAX:
                raise InvalidField("prompt.extras", f"an extra has at most {EXTRA_BYTES_MAX} bytes")
            if one.chunk in by_chunk:
                raise InvalidField("prompt.extras", f"chunk {one.chunk} is there twice")
            by_chunk[one.chunk] = one.extra
            if number % CHUNKS_A_STEP == 0:
                await checkpoint()
        return by_chunk


async def chain_in_steps(
    root: bytes, tokens: bytes, chunk_tokens: int, *, extras: Mapping[int, bytes] = NO_EXTRAS
) -> bytes:
    """As `chunk_keys`; others get their turn between its steps. How many chunks may be is the caller's to check."""
    chunk_bytes = chunk_tokens * TOKEN_BYTES
    chunks = len(tokens) // chunk_bytes
    step_chunks = max(1, min(CHUNKS_A_STEP, TOKEN_BYTES_A_STEP // chunk_bytes))
    if chunks <= step_chunks:
        return chunk_keys(root, tokens, chunk_tokens, extras=extras)
    keys = []
    for start in range(0, chunks, step_chunks):
        end = min(chunks, start + step_chunks)
        mine = {
            chunk - start: extras[chunk]
            for chunk in (range(start, end) if extras else ())
            if chunk in extras
        }
        part = tokens[start * chunk_bytes : end * chunk_bytes]
        keys.append(chunk_keys(root, part, chunk_tokens, extras=mine))
        root = keys[-1][-KEY_BYTES:]
        await checkpoint()
    return b"".join(keys)


def _refuse_extras(prompt: engine_pb2.Prompt) -> None:
    if prompt.extras:
        raise InvalidField("prompt.extras", "only with tokens: ready keys have them hashed in")


def check_tenant(prompt: engine_pb2.Prompt, tenants: Set[bytes] | None) -> None:
    """Raises Denied unless a token that is bound to `tenants` (None: to none) may name this prompt.

    Keys are refused whole: nobody can see in them which salt they were made with. A delta has the salt of its base,
    which was checked.
    """
    if tenants is None:
        return
    form = prompt.WhichOneof("form")
    if form == "keys" or (form == "delta" and prompt.delta.WhichOneof("more") == "keys"):
        raise Denied(
            "this token is bound to tenants, and keys do not show theirs: send tokens and the salt"
        )
    if prompt.salt not in tenants and not (form == "delta" and not prompt.salt):
        raise Denied(
            "this token is bound to other tenants: name a salt that it may use, or have this one"
            " added to the tenants of its identity, in gateway.listen"
        )
