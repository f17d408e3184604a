"""Operating a node: health, drain, metrics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from penstock.actors.api.l1 import Room
from penstock.runtime.actor import Actor
from penstock.runtime.message import Msg


class Control(Actor["Message"]):
    """Address of the control actor. Its mailbox is its own: it answers while others are busy."""


class HealthState(Enum):
    STARTING = "starting"
    SERVING = "serving"
    DEGRADED = "degraded"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class PartHealth:
    name: str
    state: HealthState
    restarts: int
    detail: str


@dataclass(frozen=True, slots=True)
class NodeHealth:
    state: HealthState
    parts: tuple[PartHealth, ...]


@dataclass(frozen=True, slots=True)
class GetHealth(Msg["Control", NodeHealth]):
    pass


@dataclass(frozen=True, slots=True)
class Drain(Msg["Control", int]):
    """Admit no more sessions, wait for those attached, then stop the node. Answers the sessions left."""

    within_s: float


@dataclass(frozen=True, slots=True)
class SessionsLeft(Msg["Control", None]):
    """How many streams are attached now."""

    count: int


@dataclass(frozen=True, slots=True)
class PurgeL1(Msg["Control", Room]):
    pass


@dataclass(frozen=True, slots=True)
class GetMetrics(Msg["Control", str]):
    """The metrics in Prometheus text format."""


Message = GetHealth | Drain | SessionsLeft | PurgeL1 | GetMetrics
