"""From what a request says of its prompt to the keys that name it at the attached node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.actors.api.errors import InvalidField
from penstock.actors.engine.arguments import read_bytes, read_extras, read_request_id
from penstock.actors.engine.keyspace import Prompt, pack_keys
from penstock.actors.engine.prompt_memory import PromptMemory
from penstock.actors.engine.session import Session
from penstock.actors.keys import Tokens
from penstock.protos import engine_pb2
from penstock.runtime.errors import CallerError
from penstock.runtime.log import Log


class PromptNames:
    """Names prompts, and remembers those of request ids. `memory_bytes_max` bounds what that takes."""

    def __init__(self, *, memory_bytes_max: int, log: Log) -> None:
        self._memory = PromptMemory(bytes_max=memory_bytes_max)
        self._memory_digest = b""  # of the namespace whose keys _memory holds
        self._log = log

    def name(
        self,
        session: Session,
        tokens: Tokens | None,
        keys: bytes | Sequence[bytes] | None,
        *,
        salt: bytes,
        adapter: bytes,
        extras: Mapping[int, bytes] | None = None,
        request_id: str = "",
    ) -> Prompt:
        """The prompt by its keys, cut to what the node takes. Raises InvalidField, CallerError."""
        if (tokens is None) == (keys is None):
            raise CallerError("name the prompt by tokens or by keys: one of them, and not both")
        salt, adapter = read_bytes("salt", salt), read_bytes("adapter", adapter)
        request_id, extras = read_request_id(request_id), read_extras(extras)
        if keys is not None:
            if extras:
                raise InvalidField("extras", "only with tokens: ready keys have them hashed in")
            prompt = Prompt(pack_keys(keys), b"", salt, adapter)
        else:
            assert tokens is not None
            if self._memory_digest != session.keyspace.digest:
                self._memory.forget_all()  # another namespace: a node with another chunk size, say
                self._memory_digest = session.keyspace.digest
            known = self._memory.recall(request_id)
            prompt = session.keyspace.prompt(
                tokens, salt=salt, adapter=adapter, extras=extras, known=known
            )
        if prompt.chunks > session.chunks_max:
            self._log.warning_once(
                "prompt_cut", chunks=prompt.chunks, chunks_max=session.chunks_max
            )
        return prompt.cut(session.chunks_max)

    def message(self, request_id: str, prompt: Prompt, session: Session) -> engine_pb2.Prompt:
        """See `PromptMemory.message`."""
        return self._memory.message(request_id, prompt, session.secret)

    def remember(self, request_id: str, prompt: Prompt, session: Session, prompt_id: int) -> None:
        """See `PromptMemory.remember`."""
        self._memory.remember(request_id, prompt, session.secret, prompt_id)

    def forget(self, request_id: str) -> None:
        """See `PromptMemory.forget`."""
        self._memory.forget(request_id)
