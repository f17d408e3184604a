"""What a router counts, of each engine."""

from __future__ import annotations

from functools import partial

from penstock.actors.router.backends import Backend, Pool
from penstock.runtime.telemetry import Telemetry


class RouterMetrics:
    """Parts held are what was sent to the same engine before: what it really holds, its node tells."""

    def __init__(self, telemetry: Telemetry, pool: Pool) -> None:
        engine = ("engine",)
        self._requests = telemetry.counter(
            "router_requests", "Requests that an engine took.", labels=engine
        )
        self._parts = telemetry.counter(
            "router_prompt_parts", "Parts of their prompts.", labels=engine
        )
        self._held = telemetry.counter(
            "router_held_parts",
            "Parts of their prompts that were sent to the same engine before.",
            labels=engine,
        )
        self._misses = telemetry.counter(
            "router_misses",
            "Requests that an engine did not take or end.",
            labels=("engine", "why"),
        )
        self._unpushed = telemetry.counter(
            "router_unpushed", "Prompts that no prefill engine computed: decode had to."
        )
        queued = telemetry.gauge(
            "router_queued_parts", "Parts that wait for an answer to begin.", labels=engine
        )
        away = telemetry.gauge(
            "router_engine_away", "1 while an engine that failed is left alone.", labels=engine
        )
        for one in pool.backends:
            name = one.config.name
            queued.of(engine=name).read_from(partial(_queued, one))
            away.of(engine=name).read_from(partial(_away, pool, one))

    def sent(self, engine: str, held: int, parts: int) -> None:
        self._requests.of(engine=engine).add()
        self._parts.of(engine=engine).add(parts)
        self._held.of(engine=engine).add(held)

    def tried(self, engine: str, why: str) -> None:
        self._misses.of(engine=engine, why=why).add()

    def unpushed(self) -> None:
        self._unpushed.add()


def _queued(backend: Backend) -> float:
    return float(backend.queued)


def _away(pool: Pool, backend: Backend) -> float:
    return float(pool.is_away(backend))
