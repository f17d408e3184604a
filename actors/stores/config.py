"""What the configuration of every store says, whatever its type.

    stores:
      - name: nvme
        type: file
        capacity: 500GiB
        write: on_second_hit

Stores are tiers in the order they are listed in. Each type adds its own keys in a record derived from `StoreConfig`,
which stands in the store's file; `opening.py` lists them all. Durations are seconds, sizes bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Annotated

import msgspec

from penstock.actors.config_words import Count, PolicyName, TenantQuota, check_quotas
from penstock.actors.stores.transform_config import AnyTransform, check_transforms
from penstock.runtime.config import Config
from penstock.runtime.units import MIB, ByteSize, Seconds

DURATION_S_MAX = 86_400.0
Chance = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


def check_durations(config: Config, *names: str) -> None:
    """Raises ValueError unless each of these fields of `config` is 1 ms to a day."""
    for name in names:
        seconds = getattr(config, name)
        if not 0.001 <= seconds <= DURATION_S_MAX:
            raise ValueError(f"{name} must be 1 ms to {DURATION_S_MAX:g} s, not {seconds:g} s")


class WritePolicy(enum.Enum):
    """When an object of L1 is saved to this store."""

    WRITE_THROUGH = "write_through"  # as soon as it is committed
    ON_SECOND_HIT = "on_second_hit"  # when it has been hit for the second time
    ON_EVICT = "on_evict"  # before it leaves L1
    NONE = "none"  # never: this store is only read


class OwnershipName(enum.Enum):
    """For types that leave the choice; see `store.Ownership`."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"


class BreakerConfig(Config, frozen=True):
    """When a store that fails is left alone, and for how long."""

    failures: Count = 5  # so many operations failed or out of time within `window` open it
    window: Seconds = Seconds(30)
    open_for: Seconds = Seconds(5)  # then one probe is let through
    open_for_max: Seconds = Seconds(30)  # doubled up to this while it goes on failing

    def __post_init__(self) -> None:
        check_durations(self, "window", "open_for", "open_for_max")
        if self.open_for > self.open_for_max:
            raise ValueError(
                f"open_for is {self.open_for:g} s, above open_for_max, {self.open_for_max:g} s:"
                " raise that, too"
            )


class FaultsConfig(Config, frozen=True):
    """Faults rehearsed on purpose, in tests and on game days: how likely each is, per object or, for `error` and
    `hang`, per batch. What happens is drawn from `seed`."""

    seed: int = 0
    error: Chance = 0.0  # the whole batch fails
    hang: Chance = 0.0  # the batch is never answered
    slow: Chance = 0.0  # the batch takes `slow_for` longer
    slow_for: Seconds = Seconds(1)
    fault: Chance = 0.0  # this object fails
    flip: Chance = 0.0  # a bit of what was loaded is another one
    truncate: Chance = 0.0  # only the first part of an object is saved
    drop: Chance = 0.0  # saved, it was said, and then it is not there


OF_OWNERS = ("capacity", "policy", "objects_max", "tenant_bytes_max", "tenants_max", "quotas")
"""What only the owner of a store can keep to."""
OF_TRANSFORMS = ("bounce_bytes_max", "transform_threads")


class StoreConfig(Config, frozen=True, tag_field="type"):
    """One store."""

    name: Annotated[
        str,
        msgspec.Meta(pattern="^[a-z0-9_-]{1,32}$", description="1 to 32 of a-z, 0-9, _ and -"),
    ]
    capacity: ByteSize = ByteSize(0)  # of the medium, headers and padding included; 0: all it has
    policy: PolicyName = PolicyName.LRU  # which object an exclusive store gives up first
    write: WritePolicy = WritePolicy.WRITE_THROUGH
    write_back: bool = True  # what is loaded from it stays in L1
    loads_max: Annotated[int, msgspec.Meta(ge=1, le=512)] = 16  # batches loaded at a time
    saves_max: Annotated[int, msgspec.Meta(ge=1, le=512)] = (
        4  # batches saved at a time, while no load waits
    )
    inflight_bytes_max: ByteSize = ByteSize(512 * MIB)  # of all of them; a larger batch goes alone
    waiting_max: Annotated[int, msgspec.Meta(ge=1, le=1024)] = (
        1024  # batches that wait for their turn; one more is refused
    )
    owed_max: Count = 256  # objects that a failed save may have left, by folder or device
    open_within: Seconds = Seconds(10)  # a node that starts waits this long, then goes on without
    locate_within: Seconds = Seconds(0.25)
    load_within: Seconds = Seconds(5)
    save_within: Seconds = Seconds(30)
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=16)] = 3  # the first one included
    breaker: BreakerConfig = BreakerConfig()
    objects_max: Count = 1 << 22  # known to the ledger of an exclusive store
    tenant_bytes_max: ByteSize = ByteSize(0)  # of a tenant that is not named in quotas; 0: none
    tenants_max: Count = 65536
    quotas: tuple[TenantQuota, ...] = ()  # held in an exclusive store only
    transforms: tuple[AnyTransform, ...] = ()  # of what lies on the medium; see transform_config.py
    bounce_bytes_max: ByteSize = ByteSize(256 * MIB)  # memory for objects being transformed
    transform_threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    faults: FaultsConfig | None = None  # of the medium: below the transforms

    @property
    def has_quotas(self) -> bool:
        """Whether it matters whose the objects are."""
        return bool(self.tenant_bytes_max or self.quotas)

    @property
    def close_s_max(self) -> float:
        """How long this store waits for what it cannot give up when it is closed, where that is configured; else 0."""
        return 0.0

    def __post_init__(self) -> None:
        check_transforms(self.transforms)
        if not self.transforms and (given := self._given(OF_TRANSFORMS)):
            raise ValueError(f"{', '.join(given)}: there are no transforms; leave it out")
        if not self.bounce_bytes_max:
            raise ValueError("bounce_bytes_max must not be 0")
        check_durations(self, "open_within", "locate_within", "load_within", "save_within")
        if not self.inflight_bytes_max:
            raise ValueError("inflight_bytes_max must not be 0")
        salts = [quota.salt for quota in self.quotas]
        if len(set(salts)) != len(salts):
            raise ValueError("quotas: one salt has two quotas")
        if self.capacity:
            check_quotas(self.tenant_bytes_max, self.quotas, "capacity", self.capacity)

    def check_shared(self) -> None:
        """Raises ValueError if it says how to keep what nobody keeps, as others write to this store, too."""
        if given := self._given(OF_OWNERS):
            problem = (
                f"{', '.join(given)}: others write there too, so nothing is counted or evicted"
            )
            raise ValueError(f"{problem}; leave it out, or give the store to one node alone")

    def _given(self, names: Iterable[str]) -> list[str]:
        """Those of these that are not as usual."""
        fields = {field.name: field for field in msgspec.structs.fields(self)}
        return [name for name in names if getattr(self, name) != _usual(fields[name])]


def _usual(field: msgspec.structs.FieldInfo) -> object:
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()
