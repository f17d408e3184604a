"""Objects on a Valkey or Redis server, or on a cluster: for capacity that several nodes share.

    saving   parts, if it has some, side by side -> head -> parts of the version before it are removed
             given up before the head: its parts are removed; after: it becomes visible, whole
    loading  head -> parts, side by side, straight into the arena

How an object lies there is said in `valkey_record.py`. It is shared: nothing is counted and nothing is evicted by us;
objects go by their time to live, or by the server's own policy, which may take a part and leave the rest: a miss.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from functools import partial

import anyio
import anyio.to_thread

from penstock.actors.api.store import Keys
from penstock.actors.stores.given_up import GivenUp
from penstock.actors.stores.resp_words import Data, Reply, RespError, command
from penstock.actors.stores.store import (
    DONE,
    MISSING,
    Entry,
    Fate,
    Given,
    Outcome,
    Ownership,
    StoreContext,
    StoreFault,
    StoreRefused,
    Wanted,
    nothing_to_count,
)
from penstock.actors.stores.together import together
from penstock.actors.stores.valkey_config import Mode, ValkeyConfig
from penstock.actors.stores.valkey_groups import (
    Group,
    Groups,
    grouped,
    is_moved,
    is_there,
    refused,
    saved,
)
from penstock.actors.stores.valkey_login import read_login
from penstock.actors.stores.valkey_node import LoginRefused, Request, ValkeyNode
from penstock.actors.stores.valkey_record import ID_BYTES, META_BYTES, HeadSink, Meta, PartSink
from penstock.actors.stores.valkey_servers import Cluster, OneServer, Servers

VERSIONS_MAX = 3  # an object that is replaced while it is read is begun again so often
UNSEEN_S = 3600  # for which a part may wait for its head, where nothing expires otherwise
NO_ID = bytes(ID_BYTES)


async def open_valkey_store(config: ValkeyConfig, _: StoreContext) -> ValkeyStore:
    """Raises StoreRefused: a file that cannot be read, or a login that is refused; StoreFault."""
    login = await anyio.to_thread.run_sync(read_login, config)
    addresses = config.parsed()
    is_one = config.mode is Mode.STANDALONE
    servers: Servers = OneServer(addresses[0], login) if is_one else Cluster(addresses, login)
    opened = False
    try:
        await servers.prepare()
        opened = True
    except LoginRefused as refusal:
        problem = f"{refusal}: see user, password_file and password_env"
        raise StoreRefused(f"stores.{config.name}.user", problem) from None
    finally:
        if not opened:
            servers.close()
    return ValkeyStore(config, servers)


class ValkeyStore:
    """The objects whose names begin with one prefix."""

    ownership = Ownership.SHARED
    capacity_bytes = 0

    def __init__(self, config: ValkeyConfig, servers: Servers) -> None:
        self._servers = servers
        self._prefix = config.prefix.encode()
        self._part_bytes = int(config.part_bytes)
        self._expiry = ("PX", str(int(1000 * config.ttl))) if config.ttl else ()
        # Parts that no head names, as whoever wrote them died, go in any case.
        self._part_expiry = self._expiry or ("PX", str(1000 * UNSEEN_S))
        self._answer_s = config.locate_within / 2  # of one server, so that others are heard, too
        self._given_up = GivenUp()

    async def locate(self, keys: Keys) -> bytes:
        """What a server that does not answer has is not there; nobody answers: StoreFault."""
        groups = await self._grouped([(key, 0) for key in keys])
        found: set[bytes] = set()
        troubles = [groups.reason] if groups.nowhere else []
        answered = 0
        within_s = self._answer_s if len(groups.of_servers) > 1 else None

        async def ask(group: Group) -> None:
            nonlocal answered
            node, indices = group
            try:
                with anyio.fail_after(within_s):
                    found.update(await self._which_are_there(node, [keys[at] for at in indices]))
            except StoreFault as fault:
                troubles.append(str(fault))
            except TimeoutError:
                troubles.append(f"{node.address.target()}: no answer within {within_s} s")
            else:
                answered += 1

        await together(ask, groups.of_servers)
        if troubles and not answered:
            raise StoreFault(troubles[0])
        return bytes(key in found for key in keys)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        sizes = [(one.key, len(one.header) + len(one.payload)) for one in wanted]
        outcomes: dict[int, Outcome] = {}

        async def load(group: Group) -> None:
            node, indices = group
            some = [wanted[index] for index in indices]
            outcomes.update(zip(indices, await self._load_group(node, some), strict=True))

        groups = await self._grouped(sizes)
        outcomes.update((at, _nowhere(groups)) for at in groups.nowhere)
        await together(load, groups.of_servers)
        return [outcomes[index] for index in range(len(wanted))]

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        # Of one key only the last: two at a time would race for its name.
        last = {one.key: one for one in given}
        await self._given_up.after(last)
        all_ = [*last.values()]
        outcomes: dict[bytes, Outcome] = {}

        async def save(group: Group) -> None:
            node, indices = group
            some = [all_[index] for index in indices]
            told = await self._save_group(node, some)
            outcomes.update((one.key, outcome) for one, outcome in zip(some, told, strict=True))

        groups = await self._grouped([(one.key, one.payload_bytes) for one in all_])
        outcomes.update((all_[at].key, _nowhere(groups)) for at in groups.nowhere)
        await together(save, groups.of_servers)
        return [outcomes[one.key] for one in given]

    async def delete(self, keys: Keys) -> None:
        names = {*keys}
        await self._given_up.after(names)
        await together(self._delete, [*names])

    def recover(self) -> AsyncIterator[list[Entry]]:
        return nothing_to_count()

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return META_BYTES + header_bytes + payload_bytes

    async def aclose(self) -> None:
        await self._given_up.after_all()
        self._servers.close()

    async def _grouped(self, sizes: Sequence[tuple[bytes, int]]) -> Groups:
        return await grouped(self._servers, [(self._name(key), size) for key, size in sizes])

    # Loading.

    async def _which_are_there(self, node: ValkeyNode, keys: list[bytes]) -> set[bytes]:
        asked = [command("EXISTS", self._name(key)) for key in keys]
        replies = await self._ask(node, Request(asked))
        # What was moved to another server is asked for alone.
        return {
            key
            for key, command_, reply in zip(keys, asked, replies, strict=True)
            if is_there(reply)
            or (
                isinstance(reply, RespError)
                and is_there((await self._servers.ask(self._name(key), Request([command_])))[0])
            )
        }

    async def _load_group(self, node: ValkeyNode, wanted: list[Wanted]) -> list[Outcome]:
        """Of one server, asked for together; what is not simply there or not, each alone."""
        if len(wanted) == 1:
            return [await self._load(wanted[0])]
        heads = [HeadSink(one) for one in wanted]
        asked = [command("GET", self._name(one.key)) for one in wanted]
        request = Request(asked, heads, [one.hold for one in wanted])
        try:
            replies = await self._ask(node, request)
        except StoreFault as fault:
            return [Outcome(Fate.FAULT, reason=str(fault))] * len(wanted)
        outcomes: list[Outcome] = []
        for one, head, reply in zip(wanted, heads, replies, strict=True):
            if reply is None:
                outcomes.append(MISSING)
            elif head.meta is not None and not head.meta.part_bytes:
                outcomes.append(Outcome(Fate.DONE, head.meta.payload_bytes))
            else:
                outcomes.append(await self._load(one))
        return outcomes

    async def _load(self, wanted: Wanted) -> Outcome:
        name = self._name(wanted.key)
        before: Meta | None = None
        for _ in range(VERSIONS_MAX):
            head = HeadSink(wanted)
            try:
                request = Request([command("GET", name)], [head], wanted.hold)
                reply = (await self._servers.ask(name, request))[0]
                if reply is None:
                    return MISSING
                if isinstance(reply, RespError):
                    return refused(reply)
                if head.meta is None:
                    return Outcome(Fate.REFUSED, reason=head.reason)
                if head.meta == before:
                    return MISSING  # its parts are gone, and it was not replaced
                before = head.meta
                if await self._load_parts(wanted, name, before):
                    return Outcome(Fate.DONE, before.payload_bytes)
            except StoreFault as fault:
                return Outcome(Fate.FAULT, reason=str(fault))
        return Outcome(Fate.FAULT, reason="it is replaced again and again while it is read")

    async def _load_parts(self, wanted: Wanted, name: bytes, meta: Meta) -> bool:
        """Whether all were there. Raises StoreFault."""
        payload = wanted.payload[: meta.payload_bytes]

        async def load(part: tuple[bytes, int]) -> bool:
            part_name, start = part
            sink = PartSink(payload[start : start + meta.part_bytes])
            request = Request([command("GET", part_name)], [sink], wanted.hold)
            reply = (await self._servers.ask(part_name, request))[0]
            if isinstance(reply, RespError):
                raise StoreFault(f"a part is refused with {reply.code}")
            return sink.is_taken

        parts = zip(meta.part_names(name), meta.parts, strict=True)
        return all(await together(load, [*parts]))

    # Saving and deleting.

    async def _save_group(self, node: ValkeyNode, given: list[Given]) -> list[Outcome]:
        """To one server, sent together; what is in parts, or was moved, each alone."""
        if len(given) == 1:
            return [await self._save(given[0])]
        keys = [one.key for one in given]
        request = Request(
            [self._setting(one) for one in given],
            hold=[one.hold for one in given],
            if_given_up=lambda sent: self._given_up.add(sent, *keys),
        )
        try:
            replies = await self._ask(node, request)
        except StoreFault as fault:
            return [Outcome(Fate.FAULT, reason=str(fault))] * len(given)
        return [
            await self._save(one) if is_moved(reply) else saved(reply)
            for one, reply in zip(given, replies, strict=True)
        ]

    async def _save(self, given: Given) -> Outcome:
        name, size = self._name(given.key), given.payload_bytes
        try:
            if size <= self._part_bytes:
                give_up = partial(self._give_up, given.key)
                request = Request([self._setting(given)], (), given.hold, give_up)
                return saved((await self._servers.ask(name, request))[0])
            meta = Meta(len(given.header), size, self._part_bytes, secrets.token_bytes(ID_BYTES))
            outcome = await self._save_parts(given, name, meta)
            if outcome is DONE:
                outcome = await self._save_head(given, name, meta)
            if outcome is DONE and not self._expiry:
                await together(self._keep, [*meta.part_names(name)])
        except StoreFault as fault:
            outcome = Outcome(Fate.FAULT, reason=str(fault))
        return outcome

    def _setting(self, given: Given) -> list[Data]:
        """Of an object in one value."""
        meta = Meta(len(given.header), given.payload_bytes, 0, NO_ID)
        views = (memoryview(bytes(meta)), given.header, given.payload[: given.payload_bytes])
        return command("SET", self._name(given.key), views, *self._expiry)

    def _give_up(self, key: bytes, sent: asyncio.Future[list[Reply]]) -> None:
        self._given_up.add(sent, key)

    async def _save_parts(self, given: Given, name: bytes, meta: Meta) -> Outcome:
        """All of them, or none. Raises StoreFault."""
        payload = given.payload[: meta.payload_bytes]
        names = meta.part_names(name)

        def give_up(part_name: bytes, sent: asyncio.Future[list[Reply]]) -> None:
            self._given_up.add(sent, given.key)
            sent.add_done_callback(lambda _: self._forget([part_name]))

        async def save(part: tuple[bytes, int]) -> Outcome:
            part_name, start = part
            data = (payload[start : start + meta.part_bytes],)
            setting = command("SET", part_name, data, *self._part_expiry)
            request = Request([setting], (), given.hold, partial(give_up, part_name))
            reply = (await self._servers.ask(part_name, request))[0]
            return saved(reply)

        is_whole = False
        try:
            outcomes = await together(save, [*zip(names, meta.parts, strict=True)])
            failed = [one for one in outcomes if one is not DONE]
            is_whole = not failed
        finally:
            if not is_whole:
                self._forget(names)
        return failed[0] if failed else DONE

    async def _keep(self, part_name: bytes) -> None:
        """A part whose head is there, on a store where nothing expires. Raises StoreFault."""
        reply = (await self._servers.ask(part_name, Request([command("PERSIST", part_name)])))[0]
        if isinstance(reply, RespError):
            raise StoreFault(f"a part may not be kept: refused with {reply.code}")

    async def _save_head(self, given: Given, name: bytes, meta: Meta) -> Outcome:
        """Of an object whose parts are there: makes it visible. Raises StoreFault."""
        views = (memoryview(bytes(meta)), given.header)
        commands = [
            command("GETRANGE", name, "0", str(META_BYTES - 1)),
            command("SET", name, views, *self._expiry),
        ]

        def give_up(sent: asyncio.Future[list[Reply]]) -> None:
            self._given_up.add(sent, given.key)
            sent.add_done_callback(lambda _: self._after_head(name, meta, sent))

        try:
            replies = await self._servers.ask(name, Request(commands, (), given.hold, give_up))
        except StoreFault:
            self._forget(meta.part_names(name))  # if it is there after all, it misses them
            raise
        return self._settled(name, meta, replies)

    def _after_head(self, name: bytes, meta: Meta, sent: asyncio.Future[list[Reply]]) -> None:
        if sent.exception() is None:
            self._settled(name, meta, sent.result())
        else:
            self._forget(meta.part_names(name))

    def _settled(self, name: bytes, meta: Meta, replies: list[Reply]) -> Outcome:
        """What became of a head; parts that no head names any more are removed, as soon as may be."""
        old, done = replies
        outcome = saved(done)
        if outcome is not DONE:
            self._forget(meta.part_names(name))
            return outcome
        before = Meta.read(old) if isinstance(old, bytes) else None
        if before is not None and before != meta:
            self._forget(before.part_names(name))
        return DONE

    async def _delete(self, key: bytes) -> None:
        name = self._name(key)
        asked = command("GETRANGE", name, "0", str(META_BYTES - 1))
        old, done = await self._servers.ask(name, Request([asked, command("UNLINK", name)]))
        if isinstance(done, RespError):
            raise StoreFault(f"a deletion is refused with {done.code}")
        meta = Meta.read(old) if isinstance(old, bytes) else None
        for part_name in meta.part_names(name) if meta else ():
            await self._servers.ask(part_name, Request([command("UNLINK", part_name)]))

    async def _ask(self, node: ValkeyNode, request: Request) -> list[Reply]:
        """One server, which may have the keys no longer. Raises StoreFault."""
        try:
            return await node.ask(request)
        except StoreFault:
            self._servers.lost(node)
            raise

    def _forget(self, names: Sequence[bytes]) -> None:
        """Remove parts that nobody will ask for, without waiting. What cannot be sent goes by its time to live."""
        for name in names:
            node = self._servers.known(name)
            connection = node.open_connection() if node else None
            if connection is not None:
                connection.send([command("UNLINK", name)])

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()


def _nowhere(groups: Groups) -> Outcome:
    return Outcome(Fate.FAULT, reason=groups.reason)
