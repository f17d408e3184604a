"""Members by etcd: each node holds a lease with an entry of its own, and watches the entries of the others.

One session with one server at a time. Whatever goes wrong with it ends it: the next server is tried after a pause, and
everything is listed anew, so that a lost watch, a compaction, or a wiped etcd are no cases of their own. Meanwhile the
members stay who they were.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio import CancelScope

from penstock.protos import etcd_pb2
from penstock.runtime.etcd_client import EtcdSession, check_files, etcd_session
from penstock.runtime.log import Log
from penstock.runtime.member_book import MemberBook, farewell, read_entry, written
from penstock.runtime.membership import Member, MembershipFailed, Roll, running
from penstock.runtime.membership_config import EtcdConfig

KEEPS_PER_LEASE = 3  # a lease is kept alive so often in its time
DOUBT_LEASES = 1.0  # who was deleted stays for so many leases: long enough to make a new one


class EtcdMembership(Roll):
    """See `Membership`."""

    def __init__(self, config: EtcdConfig, my_id: str) -> None:
        super().__init__(my_id, members_max=config.members_max)
        self._config = config
        self._my_id = my_id
        self._prefix = f"{config.prefix.rstrip('/')}/nodes/".encode()
        self._my_key = self._prefix + my_id.encode()
        self._book = MemberBook(
            doubt_s=config.lease * DOUBT_LEASES, members_max=2 * config.members_max
        )
        self._me: Member | None = None
        self._lease = 0  # ours at etcd; 0: none
        self._stirred = anyio.Event()  # the keeper has something to do before its time
        self._doubt = anyio.Event()  # the sweeper has
        self._mine: tuple[Member, bool] | None = None  # what stands under our name
        self._is_mine = True  # no other node writes there
        self._endpoint = config.endpoints[0]  # that answered last
        self._lost_at = ""  # the server that we told of as lost; empty: there is one that answers
        self._log = Log("membership")

    async def announce(self, me: Member) -> None:
        self._me = me
        self._stirred.set()

    async def aclose(self) -> None:
        """Say farewell, if etcd answers at once."""
        me, self._me = self._me, None
        if me is None or not self._lease or not self._is_mine:
            return
        with CancelScope(shield=True), anyio.move_on_after(self._config.within):
            try:
                async with etcd_session(self._config, self._endpoint) as session:
                    await session.put(self._my_key, farewell(me), self._lease)
                    await session.revoke(self._lease)
            except MembershipFailed as refused:
                self._log.info("left_without_farewell", reason=str(refused))

    async def run(self) -> None:
        """Keep to etcd until cancelled."""
        turn = 0
        pause_s: float = self._config.retry
        while True:
            endpoint = self._config.endpoints[turn % len(self._config.endpoints)]
            began, why = anyio.current_time(), ""
            try:
                await self._follow(endpoint)
            except* MembershipFailed as failed:
                why = _first(failed)
            self._lost(endpoint, why)
            if anyio.current_time() - began > self._config.retry_max:
                pause_s = self._config.retry
            turn += 1
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._config.retry_max)

    def _lost(self, endpoint: str, why: str) -> None:
        """Of several servers that are away, one is told of."""
        is_news = self._lost_at in ("", endpoint)
        tell = self._log.debug if self._lost_at else self._log.warning
        tell("membership_lost", endpoint=endpoint, reason=why)
        if is_news:
            self._lost_at = endpoint
            self.degrade(f"{why}; going on with the members last known")

    async def _follow(self, endpoint: str) -> None:
        """One session, until it fails. Raises MembershipFailed, alone or in a group."""
        async with etcd_session(self._config, endpoint) as session:
            revision = await self._list(session)
            self._endpoint = endpoint
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, session, revision + 1)
                tasks.start_soon(self._keep, session, endpoint)
                tasks.start_soon(self._sweep)

    async def _list(self, session: EtcdSession) -> int:
        limit = 2 * self._config.members_max
        revision, entries = await session.list(self._prefix, limit)
        found: dict[str, tuple[Member, bool]] = {}
        for entry in entries:
            read = self._read(entry)
            if read is not None:
                found[read[0].node_id] = read
        self._book.listed(found, anyio.current_time())
        self._stands(found.get(self._my_id))
        self._publish()
        return revision

    async def _watch(self, session: EtcdSession, revision: int) -> None:
        async for events in session.watch(self._prefix, revision):
            for event in events:
                self._take(event)
            self._publish()

    def _take(self, event: etcd_pb2.Event) -> None:
        node_id = event.kv.key.removeprefix(self._prefix).decode("utf-8", "replace")
        read = None
        if event.type == etcd_pb2.Event.DELETE:
            self._book.deleted(node_id, anyio.current_time())
        else:
            read = self._read(event.kv)
            if read is not None:
                self._book.put(read[0], has_left=read[1])
        if node_id == self._my_id:
            self._stands(read)
            self._stirred.set()
        self._doubt.set()

    def _read(self, entry: etcd_pb2.KeyValue) -> tuple[Member, bool] | None:
        node_id = entry.key.removeprefix(self._prefix).decode("utf-8", "replace")
        read = read_entry(node_id, entry.value)
        if read is None:
            self._log.warning_once("entry_is_not_of_a_node", node_id[:64], key=node_id[:64])
        return read

    def _stands(self, mine: tuple[Member, bool] | None) -> None:
        """This stands under our name: nothing, ours, an earlier life's, to be taken over, or another node's."""
        self._mine = mine
        if mine is None or mine[1] or self._me is None or not self._lease:
            self._is_mine = True
        elif self._me.boot:
            self._is_mine = mine[0].boot == self._me.boot
        else:
            self._is_mine = mine[0].address == self._me.address

    def _publish(self) -> None:
        left_out = self.know(self._book.members)
        if left_out:
            self._log.warning_once("members_left_out", count=left_out, key="members_max")

    async def _keep(self, session: EtcdSession, endpoint: str) -> None:
        """Our lease, and our entry with it; and that the server answers, also before we are announced."""
        pause_s = self._config.lease / KEEPS_PER_LEASE
        has_written = b""
        while True:
            self._stirred = anyio.Event()
            if self._lease and not await session.keep_alive(self._lease):
                self._lease = 0
                has_written = b""
            me = self._me
            if me is None:
                await session.list(self._my_key, 1)
            elif self._is_mine and (written(me) != has_written or self._mine != (me, False)):
                if not self._lease:
                    self._lease = await session.grant(int(self._config.lease))
                await session.put(self._my_key, written(me), self._lease)
                has_written = written(me)
            self._tell_state(endpoint)
            with anyio.move_on_after(pause_s):
                await self._stirred.wait()

    def _tell_state(self, endpoint: str) -> None:
        if self._lost_at:
            self._log.info("membership_found", endpoint=endpoint)
            self._lost_at = ""
        if self._is_mine:
            self.degrade("")
            return
        where = "elsewhere" if self._mine is None else f"at {self._mine[0].address}"
        self.degrade(
            f"another node calls itself {self._my_id}, {where}: stop one, or give it another"
            " cluster.node_id"
        )

    async def _sweep(self) -> None:
        """Give up members whose doubt is over."""
        while True:
            self._doubt = anyio.Event()
            now = anyio.current_time()
            self._book.settle(now)
            self._publish()
            wait_s = self._book.due - now
            with anyio.move_on_after(None if math.isinf(wait_s) else max(0.0, wait_s)):
                await self._doubt.wait()


def _first(failed: BaseExceptionGroup[MembershipFailed]) -> str:
    one: BaseException = failed
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return str(one)


@asynccontextmanager
async def etcd_membership(config: EtcdConfig, my_id: str) -> AsyncIterator[EtcdMembership]:
    """Raises ConfigError for files that cannot be used; then it degrades."""
    await anyio.to_thread.run_sync(check_files, config)
    membership = EtcdMembership(config, my_id)
    async with running(membership.run(), membership):
        try:
            yield membership
        finally:
            await membership.aclose()
