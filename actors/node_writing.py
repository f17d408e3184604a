"""From a node's configuration to what its store writer is made of."""

from __future__ import annotations

from penstock.actors.api import store
from penstock.actors.config import NodeConfig
from penstock.actors.core.write_policy import Moment, Tier
from penstock.actors.stores.config import StoreConfig, WritePolicy
from penstock.actors.stores.routing import routing_of
from penstock.actors.writer_limits import WriterLimits
from penstock.actors.writer_retries import RetryLimits
from penstock.runtime.ref import Ref

MOMENTS = {
    WritePolicy.WRITE_THROUGH: Moment.COMMITTED,
    WritePolicy.ON_SECOND_HIT: Moment.HIT_TWICE,
    WritePolicy.ON_EVICT: Moment.LEAVING,
    WritePolicy.NONE: None,
}
LOCATE_WITHIN_S = 2.0  # to ask stores what became of objects nobody remembers


def saved_tier(
    config: StoreConfig, ref: Ref[store.StoreActor]
) -> tuple[Tier, Ref[store.StoreActor]]:
    """A store as the writer sees it."""
    return Tier(config.name, MOMENTS[config.write], routing_of(config)), ref


def writer_limits(config: NodeConfig) -> WriterLimits:
    given = config.writer
    return WriterLimits(
        inflight_bytes_max=given.inflight_bytes_max,
        batch_bytes_max=given.batch,
        batch_objects_max=given.batch_objects,
        queued_objects_max=given.queued_objects_max,
        settled_objects_max=given.remembered_objects_max,
        waited_objects_max=given.waited_objects_max,
        waiters_max=given.waiters_max,
        hits_max=given.hits_max,
        save_s=given.save_within,
        locate_s=LOCATE_WITHIN_S,
        ask_s=config.ask_within,
        retries=RetryLimits(
            objects_max=given.retry_objects_max,
            bytes_max=given.retry_bytes_max,
            within_s=given.retry_within,
            pause_s=given.retry_pause,
            pause_s_max=given.retry_pause_max,
        ),
    )


def saves_what_leaves(config: NodeConfig) -> bool:
    return any(one.write is WritePolicy.ON_EVICT for one in config.stores)


def hits_max(config: NodeConfig) -> int:
    """Chunks of hits that L1 keeps for the writer to count."""
    counts = any(one.write is WritePolicy.ON_SECOND_HIT for one in config.stores)
    return config.writer.hits_max if counts else 0
