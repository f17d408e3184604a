"""The gRPC methods of a node, as one table: path -> how it is called. Bytes of a session stream are not parsed here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from penstock.actors.api import control, l1, session, store
from penstock.actors.api.control import HealthState
from penstock.actors.api.errors import (
    InvalidField,
    StandsAlone,
    TooLarge,
    UnknownStore,
)
from penstock.actors.api.peers import Reach
from penstock.actors.api.types import KEY_BYTES
from penstock.actors.call_status import status_of
from penstock.actors.cluster_stat import cluster_reply
from penstock.actors.core.namespace import DIGEST_BYTES
from penstock.actors.prompts import TOKEN_BYTES, chain_in_steps, check_tenant
from penstock.actors.stat_codec import stat_reply
from penstock.actors.wire_scan import UNSCANNED_BYTES_MAX, ScanBounds, parse, shape_of
from penstock.protos import control_pb2, engine_pb2
from penstock.runtime.deadline import deadline_within
from penstock.runtime.errors import (
    PenstockError,
)
from penstock.runtime.identity import calling
from penstock.runtime.ref import Ref, gather_asks

if TYPE_CHECKING:
    from penstock.actors.fleet import Fleet

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
ARENA_WITHIN_S = 3600.0  # to drain one; a caller may have less time
PATH_CHARS_MAX = 4096
SERVICE_NAMES = ("penstock.v1.Engine", "penstock.v1.Control")

_HEALTH = {
    HealthState.STARTING: engine_pb2.HEALTH_STATE_STARTING,
    HealthState.SERVING: engine_pb2.HEALTH_STATE_SERVING,
    HealthState.DEGRADED: engine_pb2.HEALTH_STATE_DEGRADED,
    HealthState.DRAINING: engine_pb2.HEALTH_STATE_DRAINING,
}


class NodeServices(grpc.GenericRpcHandler):
    """All methods of Engine and Control."""

    def __init__(
        self,
        *,
        serve_stream: Callable[[object, Any], Awaitable[None]],
        manager: Ref[l1.L1Manager],
        sessions: Ref[session.Sessions],
        operator: Ref[control.Control],
        stores: Sequence[Ref[store.StoreActor]],
        reach: Reach | None,
        fleet: Fleet | None,
        epoch: bytes,
        chunks_max: int,
        message_bytes_max: int,
        scan_bounds: ScanBounds,
        ask_s: float,
        drain_s: float,
    ) -> None:
        self._l1 = manager
        self._sessions = sessions
        self._control = operator
        self._stores = stores
        self._reach = reach
        self._fleet = fleet
        self._epoch = epoch
        self._chunks_max = chunks_max
        self._scan_bounds = scan_bounds
        self._ask_s = ask_s
        self._drain_s = drain_s
        self._methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]] = {
            "/penstock.v1.Engine/Session": grpc.stream_stream_rpc_method_handler(serve_stream),
            "/penstock.v1.Engine/Lookup": self._unary(
                engine_pb2.PeekRequest, self._peek, within_s=ask_s, bytes_max=message_bytes_max
            ),
            "/penstock.v1.Engine/Stat": self._unary(
                engine_pb2.StatRequest, self._stat, within_s=ask_s
            ),
            "/penstock.v1.Engine/Health": self._unary(
                engine_pb2.HealthRequest, self._health, within_s=ask_s
            ),
            "/penstock.v1.Control/Drain": self._unary(
                control_pb2.DrainRequest, self._drain, within_s=None
            ),
            "/penstock.v1.Control/Purge": self._unary(
                control_pb2.PurgeRequest, self._purge, within_s=ask_s
            ),
            "/penstock.v1.Control/Metrics": self._unary(
                control_pb2.MetricsRequest, self._metrics, within_s=ask_s
            ),
            "/penstock.v1.Control/Cluster": self._unary(
                control_pb2.ClusterRequest, self._cluster, within_s=ask_s
            ),
            **self._arena_methods(),
            **self._fleet_methods(message_bytes_max),
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._methods.get(handler_call_details.method)

    def _unary(
        self,
        kind: type[Request],
        method: Callable[[Request], Awaitable[Reply]],
        *,
        within_s: float | None,
        bytes_max: int = UNSCANNED_BYTES_MAX,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A method under the caller's deadline and ours (None: the request says it); refusals become statuses.

        The request is parsed here and not by gRPC, which would take it apart whatever it holds.
        """
        shape = shape_of(kind.DESCRIPTOR)

        async def call(raw: bytes, context: Context) -> Reply:
            try:
                with deadline_within(within_s), deadline_within(context.time_remaining()):
                    if len(raw) > bytes_max:
                        raise TooLarge("message", f"at most {bytes_max} bytes, not {len(raw)}")
                    return await method(await parse(raw, kind, shape, self._scan_bounds))
            except DecodeError:
                problem = f"{len(raw)} bytes that are no {kind.DESCRIPTOR.name}"
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
                raise  # abort always raises
            except PenstockError as error:
                await context.abort(status_of(error), str(error))
                raise  # abort always raises

        return grpc.unary_unary_rpc_method_handler(
            call,
            response_serializer=lambda reply: reply.SerializeToString(),
        )

    async def _peek(self, msg: engine_pb2.PeekRequest) -> engine_pb2.PeekReply:
        if len(msg.namespace_digest) != DIGEST_BYTES:
            raise InvalidField("namespace_digest", f"a digest has {DIGEST_BYTES} bytes")
        check_tenant(msg.prompt, calling().tenants)
        found = await self._sessions.ask(session.FindGeometry(msg.namespace_digest))
        match msg.prompt.WhichOneof("form"):
            case "keys":
                keys = msg.prompt.keys
            case "tokens":
                for name in ("salt", "adapter", "extras"):
                    if getattr(msg.prompt, name):
                        problem = "this call has no session to hash it with the tokens: send keys"
                        raise InvalidField(f"prompt.{name}", problem)
                tokens = msg.prompt.tokens
                if len(tokens) % TOKEN_BYTES:
                    raise InvalidField("prompt.tokens", "no whole number of packed uint32")
                self._check_chunks(len(tokens) // (found.chunk_tokens * TOKEN_BYTES))
                keys = await chain_in_steps(msg.namespace_digest, tokens, found.chunk_tokens)
            case _:
                raise InvalidField("prompt", "send keys or tokens")
        if len(keys) % KEY_BYTES:
            raise InvalidField("prompt.keys", f"a key has {KEY_BYTES} bytes")
        self._check_chunks(len(keys) // KEY_BYTES)
        hit = await self._l1.ask(l1.Peek(keys, found.geometry))
        return engine_pb2.PeekReply(total_chunks=len(keys) // KEY_BYTES, hit_chunks=hit)

    def _check_chunks(self, chunks: int) -> None:
        if chunks > self._chunks_max:
            raise TooLarge("prompt", f"{chunks} chunks, the bound is {self._chunks_max}")

    async def _stat(self, _: engine_pb2.StatRequest) -> engine_pb2.StatReply:
        usage = await self._l1.ask(l1.Measure())
        sessions = await self._sessions.ask(session.Count())
        stores = await gather_asks(one.ask(store.Measure()) for one in self._stores)
        told = [one for one in stores if isinstance(one, store.StoreUsage)]
        return stat_reply(self._epoch, usage, sessions, told)

    async def _health(self, _: engine_pb2.HealthRequest) -> engine_pb2.HealthReply:
        health = await self._control.ask(control.GetHealth())
        parts = [
            engine_pb2.HealthPart(
                name=part.name,
                state=_HEALTH[part.state],
                restarts=part.restarts,
                detail=part.detail,
            )
            for part in health.parts
        ]
        return engine_pb2.HealthReply(state=_HEALTH[health.state], parts=parts)

    async def _drain(self, msg: control_pb2.DrainRequest) -> control_pb2.DrainReply:
        within_s = msg.within_ms / 1000 or self._drain_s
        left = await self._control.ask(control.Drain(within_s), within=within_s + self._ask_s)
        return control_pb2.DrainReply(sessions_left=left)

    async def _purge(self, _: control_pb2.PurgeRequest) -> control_pb2.PurgeReply:
        room = await self._control.ask(control.PurgeL1())
        return control_pb2.PurgeReply(chunks=room.chunks_evicted, bytes=room.bytes_freed)

    async def _cluster(self, _: control_pb2.ClusterRequest) -> control_pb2.ClusterReply:
        return await cluster_reply(self._reach, ask_s=self._ask_s)

    def _fleet_methods(self, bytes_max: int) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        unary = partial(self._unary, within_s=self._ask_s, bytes_max=bytes_max)
        service = "/penstock.v1.Control"
        return {
            f"{service}/Nodes": unary(
                control_pb2.NodesRequest, lambda msg: self._require_fleet().nodes(msg)
            ),
            f"{service}/Where": unary(
                control_pb2.WhereRequest, lambda msg: self._require_fleet().where(msg)
            ),
            f"{service}/Evict": unary(
                control_pb2.EvictRequest, lambda msg: self._require_fleet().evict(msg)
            ),
            f"{service}/Pin": unary(
                control_pb2.PinRequest, lambda msg: self._require_fleet().pin(msg)
            ),
            f"{service}/SetQuota": unary(
                control_pb2.SetQuotaRequest, lambda msg: self._require_fleet().set_quota(msg)
            ),
        }

    def _require_fleet(self) -> Fleet:
        """Raises StandsAlone."""
        if self._fleet is None:
            raise StandsAlone(
                "this node has no `cluster`: it stands alone, and has no peers to ask"
            )
        return self._fleet

    def _arena_methods(self) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        unary = partial(self._unary, within_s=ARENA_WITHIN_S)
        service = "/penstock.v1.Control"
        return {
            f"{service}/Arenas": unary(control_pb2.ArenasRequest, self._list_arenas),
            f"{service}/AddArena": unary(control_pb2.AddArenaRequest, self._add_arena),
            f"{service}/DrainArena": unary(control_pb2.ArenaRequest, self._drain_arena),
            f"{service}/RemoveArena": unary(control_pb2.ArenaRequest, self._remove_arena),
        }

    async def _list_arenas(self, msg: control_pb2.ArenasRequest) -> control_pb2.ArenasReply:
        return await self._arenas(msg.store, store.ListArenas())

    async def _add_arena(self, msg: control_pb2.AddArenaRequest) -> control_pb2.ArenasReply:
        path = _absolute(msg.path)
        return await self._arenas(msg.store, store.AddArena(path, msg.size_bytes))

    async def _drain_arena(self, msg: control_pb2.ArenaRequest) -> control_pb2.ArenasReply:
        return await self._arenas(msg.store, store.DrainArena(_absolute(msg.path)))

    async def _remove_arena(self, msg: control_pb2.ArenaRequest) -> control_pb2.ArenasReply:
        return await self._arenas(msg.store, store.RemoveArena(_absolute(msg.path)))

    async def _arenas(self, name: str, msg: store.ArenaMessage) -> control_pb2.ArenasReply:
        """Raises UnknownStore, and what the store raises."""
        named = [one for one in self._stores if one.name == f"store[{name}]"]
        if not named:
            raise UnknownStore(f"there is no store {name!r}")
        arenas = await named[0].ask(msg, within=ARENA_WITHIN_S)
        return control_pb2.ArenasReply(
            arenas=[
                control_pb2.Arena(
                    path=one.path, slots=one.slots, taken=one.taken, draining=one.is_draining
                )
                for one in arenas
            ]
        )

    async def _metrics(self, _: control_pb2.MetricsRequest) -> control_pb2.MetricsReply:
        return control_pb2.MetricsReply(text=await self._control.ask(control.GetMetrics()))


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path or len(path) > PATH_CHARS_MAX:
        raise InvalidField("path", "give an absolute one")
    return path
