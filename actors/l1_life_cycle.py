"""What the L1 manager does when processes and engine instances come and go, and tenants get other quotas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

from penstock import _native
from penstock.actors.api import l1
from penstock.actors.api.errors import HeldUnbound
from penstock.actors.core.quota import Tenants
from penstock.actors.l1_geometries import Geometries
from penstock.runtime.message import answer

LifeCycleMessage = (
    l1.AddGeometry | l1.Attach | l1.OrphanSome | l1.EndSome
    | l1.StreamLost | l1.ProcessGone | l1.GiveUp | l1.CloseSome | l1.SetQuota
)  # fmt: skip


class LifeCycle:
    """Belongs to the L1 manager, and uses its table."""

    def __init__(
        self,
        table: _native.Table,
        geometries: Geometries,
        tenants: Tenants,
        *,
        ended: Callable[[float], None],
    ) -> None:
        """`ended` hears, with the time, when leases or tickets may have come to their end."""
        self._table = table
        self._geometries = geometries
        self._tenants = tenants
        self._ended = ended

    def receive(self, msg: LifeCycleMessage) -> object:
        match msg:
            case l1.AddGeometry():
                return answer(msg, self._geometries.number(msg.groups, msg.namespace))
            case l1.Attach():
                self._table.attach(msg.session, instance=msg.instance)
                return answer(msg, None)
            case l1.OrphanSome():
                return answer(msg, _step(self._table.orphan_some(msg.session, msg.objects_max)))
            case l1.EndSome():
                return answer(msg, _step(self._table.end_some(msg.session, msg.objects_max)))
            case l1.StreamLost():
                return answer(msg, self._after_loss(self._table.stream_lost(msg.session)))
            case l1.ProcessGone():
                return answer(msg, self._after_loss(self._table.process_gone(msg.session)))
            case l1.GiveUp():
                return answer(msg, self._after_loss(self._table.give_up(msg.session)))
            case l1.CloseSome():
                closed = _step(self._table.close_some(msg.instance, msg.chunks_max))
                if closed.is_over:
                    self._after_loss(0)
                return answer(msg, closed)
            case l1.SetQuota():
                return answer(msg, self._set_quota(msg.salt, msg.bytes_max))
            case _:
                assert_never(msg)

    def _set_quota(self, salt: bytes, bytes_max: int) -> int:
        """The table knows in which order a tenant gives up its own only of what was written under a quota."""
        number = self._tenants.find(salt)
        held = 0 if number is None else self._table.bytes_of(number)
        if bytes_max and held and not self._tenants.account(salt).bytes_max:
            raise HeldUnbound(
                f"the tenant holds {held} bytes that were written without a quota: evict or purge them first, or"
                " set l1.tenant_bytes_max to l1.bytes, so that all tenants have one from the start"
            )
        self._tenants.set_bound(salt, bytes_max)
        if number is not None:
            self._table.set_quota(number, bytes_max)
        return held

    def _after_loss(self, leases: int) -> int:
        self._ended(asyncio.get_running_loop().time())
        return leases


def _step(step: _native.Ended) -> l1.Ended:
    return l1.Ended(step.count, step.is_over)
