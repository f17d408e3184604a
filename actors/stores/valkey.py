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

import anyio.to_thread
from anyio.lowlevel import checkpoint

from penstock.actors.api.store import Keys
from penstock.actors.stores.given_up import GivenUp
from penstock.actors.stores.resp_words import Reply, RespError, command
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
)
from penstock.actors.stores.together import together
from penstock.actors.stores.valkey_config import Mode, ValkeyConfig
from penstock.actors.stores.valkey_login import read_login
from penstock.actors.stores.valkey_node import LoginRefused, Request, ValkeyNode
from penstock.actors.stores.valkey_record import ID_BYTES, META_BYTES, HeadSink, Meta, PartSink
from penstock.actors.stores.valkey_servers import Cluster, OneServer, Servers

VERSIONS_MAX = 3  # an object that is replaced while it is read is begun again so often
ASKED_MAX = 256  # keys located in one exchange
NO_ID = bytes(ID_BYTES)
FATES = {"OOM": Fate.FULL, "WRONGTYPE": Fate.REFUSED}


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
        self._given_up = GivenUp()

    async def locate(self, keys: Keys) -> bytes:
        by_node: dict[ValkeyNode, list[bytes]] = {}
        for index, key in enumerate(keys):
            if index % ASKED_MAX == 0:
                await checkpoint()
            by_node.setdefault(await self._servers.node(self._name(key)), []).append(key)
        batches = [
            (node, some[start : start + ASKED_MAX])
            for node, some in by_node.items()
            for start in range(0, len(some), ASKED_MAX)
        ]
        found = set[bytes]().union(*await together(self._which_are_there, batches))
        return bytes(key in found for key in keys)

    async def load(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        return await together(self._load, wanted)

    async def save(self, given: Sequence[Given]) -> list[Outcome]:
        # Of one key only the last: two at a time would race for its name.
        last = {one.key: one for one in given}
        await self._given_up.after(last)
        outcomes = await together(self._save, [*last.values()])
        told = dict(zip(last, outcomes, strict=True))
        return [told[one.key] for one in given]

    async def delete(self, keys: Keys) -> None:
        names = {*keys}
        await self._given_up.after(names)
        await together(self._delete, [*names])

    async def recover(self) -> AsyncIterator[list[Entry]]:
        """Nothing is counted."""
        nothing: list[list[Entry]] = []
        for batch in nothing:
            yield batch

    def cost(self, header_bytes: int, payload_bytes: int) -> int:
        return META_BYTES + header_bytes + payload_bytes

    async def aclose(self) -> None:
        await self._given_up.after_all()
        self._servers.close()

    # Loading.

    async def _which_are_there(self, batch: tuple[ValkeyNode, list[bytes]]) -> set[bytes]:
        node, keys = batch
        asked = [command("EXISTS", self._name(key)) for key in keys]
        replies = await node.ask(Request(asked))
        # What was moved to another server is asked for alone.
        return {
            key
            for key, command_, reply in zip(keys, asked, replies, strict=True)
            if _is_there(reply)
            or (
                isinstance(reply, RespError)
                and _is_there((await self._servers.ask(self._name(key), Request([command_])))[0])
            )
        }

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
                    return _refused(reply)
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

    async def _save(self, given: Given) -> Outcome:
        name, size = self._name(given.key), given.payload_bytes
        payload = given.payload[:size]
        try:
            if size <= self._part_bytes:
                meta = Meta(len(given.header), size, 0, NO_ID)
                return await self._save_head(given, name, meta, (given.header, payload))
            meta = Meta(len(given.header), size, self._part_bytes, secrets.token_bytes(ID_BYTES))
            outcome = await self._save_parts(given, name, meta)
            if outcome is not DONE:
                return outcome
            return await self._save_head(given, name, meta, (given.header,))
        except StoreFault as fault:
            return Outcome(Fate.FAULT, reason=str(fault))

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
            setting = command("SET", part_name, data, *self._expiry)
            request = Request([setting], (), given.hold, partial(give_up, part_name))
            reply = (await self._servers.ask(part_name, request))[0]
            return _refused(reply) if isinstance(reply, RespError) else DONE

        is_whole = False
        try:
            outcomes = await together(save, [*zip(names, meta.parts, strict=True)])
            failed = [one for one in outcomes if one is not DONE]
            is_whole = not failed
        finally:
            if not is_whole:
                self._forget(names)
        return failed[0] if failed else DONE

    async def _save_head(
        self, given: Given, name: bytes, meta: Meta, views: tuple[memoryview, ...]
    ) -> Outcome:
        """Makes it visible. Raises StoreFault."""
        commands = [
            command("GETRANGE", name, "0", str(META_BYTES - 1)),
            command("SET", name, (memoryview(bytes(meta)), *views), *self._expiry),
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
        if isinstance(done, RespError):
            self._forget(meta.part_names(name))
            return _refused(done)
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

    def _forget(self, names: Sequence[bytes]) -> None:
        """Remove parts that nobody will ask for, without waiting. What cannot be sent goes by its time to live."""
        for name in names:
            node = self._servers.known(name)
            connection = node.open_connection() if node else None
            if connection is not None:
                connection.send([command("UNLINK", name)])

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()


def _refused(error: RespError) -> Outcome:
    return Outcome(FATES.get(error.code, Fate.FAULT), reason=f"refused with {error.code}")


def _is_there(reply: Reply) -> bool:
    """Raises StoreFault."""
    if isinstance(reply, RespError) and reply.code != "MOVED":
        raise StoreFault(f"a question is refused with {reply.code}")
    return reply == 1
