"""What was looked up lately under which request id, so that a prompt that grew is sent as a delta."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from penstock.actors.api.types import KEY_BYTES
from penstock.actors.engine.keyspace import Prompt, shared_units
from penstock.protos import engine_pb2

ENTRY_BYTES = 256  # what a remembered prompt takes beside its tokens and keys, about


@dataclass(frozen=True, slots=True)
class _Entry:
    prompt: Prompt
    session: bytes  # secret of the session that gave prompt_id; ids mean nothing in another one
    prompt_id: int

    @property
    def bytes(self) -> int:
        return ENTRY_BYTES + len(self.prompt.keys) + len(self.prompt.tokens)


class PromptMemory:
    """Prompts by request id, least recently looked up forgotten first; `bytes_max` bounds what they take."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0  # sum over _entries, <= _bytes_max

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes_used(self) -> int:
        return self._bytes

    def recall(self, request_id: str) -> Prompt | None:
        """The prompt last looked up under `request_id`."""
        entry = self._entries.get(request_id) if request_id else None
        return None if entry is None else entry.prompt

    def remember(self, request_id: str, prompt: Prompt, session: bytes, prompt_id: int) -> None:
        """Keep `prompt`, which `session` knows by `prompt_id` (0: it does not). What is too large is not kept."""
        self.forget(request_id)
        entry = _Entry(prompt, session, prompt_id)
        if not request_id or not prompt_id or entry.bytes > self._bytes_max:
            return
        self._entries[request_id] = entry
        self._bytes += entry.bytes
        while self._bytes > self._bytes_max:
            self._bytes -= self._entries.popitem(last=False)[1].bytes

    def forget(self, request_id: str) -> None:
        if (entry := self._entries.pop(request_id, None)) is not None:
            self._bytes -= entry.bytes

    def forget_all(self) -> None:
        """The keys of this memory mean nothing any more."""
        self._entries.clear()
        self._bytes = 0

    def message(self, request_id: str, prompt: Prompt, session: bytes) -> engine_pb2.Prompt:
        """`prompt` for the wire: a delta to what `session` remembers of this request, or whole."""
        entry = self._entries.get(request_id) if request_id else None
        if entry is not None and entry.session == session:
            shared = _shared_chunks(entry.prompt, prompt)
            if shared:
                delta = engine_pb2.Delta(
                    base=entry.prompt_id,
                    base_chunks=shared,
                    keys=prompt.keys[shared * KEY_BYTES :],
                )
                return engine_pb2.Prompt(delta=delta, salt=prompt.salt, adapter=prompt.adapter)
        return whole(prompt)


def whole(prompt: Prompt, *, first_chunk: int = 0) -> engine_pb2.Prompt:
    """`prompt` for the wire, by its keys from `first_chunk` on."""
    keys = prompt.keys[first_chunk * KEY_BYTES :] if first_chunk else prompt.keys
    return engine_pb2.Prompt(keys=keys, salt=prompt.salt, adapter=prompt.adapter)


def _shared_chunks(known: Prompt, prompt: Prompt) -> int:
    if (known.salt, known.adapter) != (prompt.salt, prompt.adapter):
        return 0
    return shared_units(
        known.keys,
        prompt.keys,
        unit_bytes=KEY_BYTES,
        units_max=min(known.chunks, prompt.chunks),
    )
