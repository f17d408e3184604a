"""Objects that a store has read, and which of them are what was asked for: all of a batch in one native call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock._native import prove_objects
from penstock.actors.api.store import Target
from penstock.actors.stores.store import Outcome


@dataclass(frozen=True, slots=True)
class Read:
    """A batch that a store has read: all of these are as long."""

    targets: Sequence[Target]
    headers: Sequence[memoryview]
    outcomes: Sequence[Outcome]

    @property
    def payloads_bytes(self) -> int:
        return sum([one.logical_bytes for one in self.targets])

    def only(self, places: Sequence[int]) -> Read:
        """Of these."""
        if len(places) == len(self.targets):
            return self
        return Read(
            [self.targets[at] for at in places],
            [self.headers[at] for at in places],
            [self.outcomes[at] for at in places],
        )


def prove(read: Read) -> list[tuple[int, bytes] | None]:
    """Digest and run digests of each object that is all it should be. All of them were read. Releases the GIL."""
    targets = read.targets
    return prove_objects(
        keys=b"".join([one.key for one in targets]),
        namespaces=b"".join([one.namespace for one in targets]),
        logical_bytes=[one.logical_bytes for one in targets],
        runs=[one.runs for one in targets],
        headers=read.headers,
        payloads=[one.payload for one in targets],
        payload_bytes=[one.payload_bytes for one in read.outcomes],
    )
