"""The engines behind a router: what each is likely to hold, what waits there, and whether it can be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from penstock.actors.core.route_choice import Candidate, SentPrefixes, choose
from penstock.actors.router.config import BackendConfig, Role
from penstock.actors.router.prompt_names import PromptNames
from penstock.runtime.errors import UnavailableError


class NoBackend(UnavailableError):
    """Theirs: every engine that could take this was tried."""


class Backend:
    """One engine."""

    def __init__(self, config: BackendConfig, names_max: int) -> None:
        self.config = config
        self.sent = SentPrefixes(names_max)
        self.queued = 0  # parts of prompts that wait for their first byte
        self.away_until = 0.0  # by the pool's clock

    def candidate(self, prompt: PromptNames) -> Candidate:
        missing = prompt.parts - self.sent.held(prompt.names)
        return Candidate(self.config.name, self.queued, missing)


@dataclass(slots=True)
class Turn:
    """One prompt at one engine: its parts wait there until it has begun to answer, or is over."""

    backend: Backend
    parts: int

    def begun(self) -> None:
        self.backend.queued -= self.parts
        self.parts = 0


class Pool:
    """All engines of a router."""

    def __init__(
        self,
        configs: Iterable[BackendConfig],
        *,
        names_max: int,
        away_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.backends = tuple(Backend(one, names_max) for one in configs)
        self._away_s = away_s
        self._clock = clock

    def choose(
        self, prompt: PromptNames, roles: Sequence[Role], tried: Sequence[Backend] = ()
    ) -> Backend:
        """The one expected to answer first, of those not tried yet. One that is away is tried when no other is left.

        Raises NoBackend.
        """
        now = self._clock()
        able = [one for one in self.backends if one.config.role in roles and one not in tried]
        if not able:
            raise NoBackend("no engine is left that could take this request: see the router's log")
        near = [one for one in able if one.away_until <= now] or able
        chosen = choose([one.candidate(prompt) for one in near], prompt.family)
        return next(one for one in near if one.config.name == chosen.node)

    @contextmanager
    def sending(self, backend: Backend, prompt: PromptNames) -> Iterator[Turn]:
        """While the body runs, the engine has this prompt to compute, or has begun to answer it."""
        turn = Turn(backend, backend.candidate(prompt).missing)
        backend.queued += turn.parts
        backend.sent.sent(prompt.names)
        try:
            yield turn
        finally:
            turn.begun()

    def is_away(self, backend: Backend) -> bool:
        return backend.away_until > self._clock()

    def failed(self, backend: Backend) -> None:
        """It could not be reached: it may have begun another life, which holds nothing."""
        backend.away_until = self._clock() + self._away_s
        backend.sent.forget()
