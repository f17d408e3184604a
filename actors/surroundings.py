"""What the tickets of a prefetcher have in common: its limits, whom it asks, and what they take turns at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.actors.api import eviction, l1
from penstock.actors.api.types import Memory
from penstock.actors.core.load_plan import LongestHit
from penstock.actors.core.probing import Probes
from penstock.actors.loads import Loads, Tier
from penstock.actors.prefetch_metrics import PrefetchMetrics
from penstock.actors.telling import Telling
from penstock.runtime.ref import Ref
from penstock.runtime.units import KIB


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Of one ticket."""

    slice_chunks: int  # located first; each next slice has twice as many
    batch_bytes: int  # of the largest load
    surveys_max: int  # how often L1 is looked at again when something that it had has gone
    ask_s: float  # how long another actor may take for a step
    room_s: float  # how long making room may take
    probe_every_s: float = 10.0  # of a tier that is never worth its load
    head_start_s: float = 0.05  # at most, of the first load of a prompt: its reader waits for it
    plan_chunks_max: int = 512  # planned in one step of the loop: about two milliseconds at worst
    at_hand_bytes_max: int = 128 * KIB  # of all objects: read and digested in one step
    at_hand_objects_max: int = 16


@dataclass(frozen=True, slots=True)
class PrefetchLimits:
    """Of all tickets together."""

    tickets_max: int  # loaded for at once; a ticket beyond that is final at what L1 has
    inflight_bytes_max: int  # being loaded at once
    fetch: FetchLimits


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all tickets of a prefetcher share."""

    tiers: Sequence[Tier]
    l1: Ref[l1.L1Manager]
    evictor: Ref[eviction.EvictionController]
    loads: Loads
    telling: Telling
    memory: Memory
    longest: LongestHit
    limits: FetchLimits
    metrics: PrefetchMetrics
    probes: Probes
    admission: asyncio.Lock  # one prompt at a time has room made for it: no two are half there
    reserving: asyncio.Lock  # until what L1 granted is in the book, where the next one finds it
