"""What `penstock demo --pd` runs on: two nodes that push to each other, with an engine worker at each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import msgspec

from penstock.actors.cli.demo_cluster import (
    CHUNK_TOKENS,
    KV_ELEMENT_BYTES,
    DemoOptions,
    all_ready,
    worker_command,
)
from penstock.actors.cli.demo_network import (
    DECODE,
    DELAY_MS,
    DELAYED_PERCENT,
    NAMES,
    PREFILL,
    Places,
)
from penstock.actors.cli.demo_processes import (
    Child,
    Speech,
    Worker,
    module_command,
    running,
)
from penstock.actors.engine.reference_messages import Pool, WaitAttached

IDLE_S = 5.0
"""`cluster.pd.idle`: silence after which the decode node gives the prefill node up, and its engine computes."""

_TICKET_S = 600.0  # a prefill may be slow
_PART_CHUNKS = 2  # readable together
_STOP_WITHIN_S = 5.0
_ATTACHED_WITHIN_S = 60.0
_DRAINED_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.02
_PAGE_BYTES = 4096


@dataclass(slots=True)
class PdPair:
    """A prefill and a decode node with a worker each. Nodes may be killed and started anew."""

    options: DemoOptions
    places: Places
    directory: Path
    prefill: Worker
    decode: Worker
    nodes: dict[str, Child]
    lives: dict[str, AsyncExitStack]  # of those processes

    async def kill(self, name: str) -> None:
        """kill -9."""
        self.nodes[name].check_running()
        await self.nodes[name].kill()

    async def start_slowed_down(self) -> str:
        """Start the prefill node anew, some packets on its way to the other late; says how that is done."""
        by_wire = await self.places.slow_down()
        if not by_wire:
            await self._start_relay()
        await self.lives[PREFILL].aclose()
        await _start(self, PREFILL, by_relay=not by_wire)
        await self.prefill.wait(WaitAttached(_ATTACHED_WITHIN_S))
        means = "netem" if by_wire else "a relay in between: this machine has no netem"
        return f"{DELAYED_PERCENT} % of packets {DELAY_MS} ms late, by {means}"

    async def drained(self) -> Pool:
        """The decode node's memory for pushes, once it is empty; or as it is after some seconds."""
        with anyio.move_on_after(_DRAINED_WITHIN_S):
            while True:
                pool = await self.decode.look_at_pool()
                if pool.free_bytes == pool.bytes:
                    return pool
                await anyio.sleep(_LOOK_EVERY_S)
        return await self.decode.look_at_pool()

    def check_running(self) -> None:
        """Raise ProcessFailed when a node has ended: name the cause first."""
        for node in self.nodes.values():
            node.check_running()

    async def _start_relay(self) -> None:
        words = (self.places.relay, self.places.addresses[DECODE])
        command = module_command(
            "penstock.actors.cli.demo_relay", *words, str(DELAY_MS), str(DELAYED_PERCENT)
        )
        await self.lives["relay"].enter_async_context(
            _node_process("relay", [*self.places.entered[PREFILL], *command], self.directory)
        )


@asynccontextmanager
async def pd_pair(options: DemoOptions, places: Places, directory: Path) -> AsyncIterator[PdPair]:
    """Start all of it, and stop it in reverse order. Raises ProcessFailed when one of them does not come up."""
    if places.is_beyond_loopback:
        _make_certificates(directory)
    async with AsyncExitStack() as stack:
        lives = {
            name: await stack.enter_async_context(AsyncExitStack()) for name in (*NAMES, "relay")
        }
        for name in NAMES:
            _state_dir(directory, name).mkdir(mode=0o700)
        prefill, decode = workers = [
            await stack.enter_async_context(_worker(options, directory, index))
            for index in range(len(NAMES))
        ]
        pair = PdPair(options, places, directory, prefill, decode, {}, lives)
        for name in NAMES:
            await _start(pair, name, by_relay=False)
        await all_ready([*pair.nodes.values()], workers)
        yield pair


async def _start(pair: PdPair, name: str, *, by_relay: bool) -> None:
    config = pair.directory / f"{name}.yaml"
    config.write_bytes(msgspec.json.encode(_config(pair, name, by_relay=by_relay)))  # is YAML
    serve = module_command("penstock.actors.cli.main", "serve", f"--config={config}")
    command = [*pair.places.entered[name], *serve]
    process = _node_process(f"the {name} node", command, pair.directory)
    pair.nodes[name] = await pair.lives[name].enter_async_context(process)


@asynccontextmanager
async def _node_process(name: str, command: list[str], directory: Path) -> AsyncIterator[Child]:
    async with running(
        name,
        command,
        log=directory / f"{name.replace(' ', '-')}.log",
        speech=Speech.TO_LOG,
        stop_within_s=_STOP_WITHIN_S,
    ) as child:
        yield child


@asynccontextmanager
async def _worker(options: DemoOptions, directory: Path, index: int) -> AsyncIterator[Worker]:
    name = NAMES[index]
    address = f"unix://{_state_dir(directory, name) / 'penstock.sock'}"
    async with running(
        f"the {name} worker",
        worker_command(options, address, index),
        log=directory / f"{name}-worker.log",
        speech=Speech.BY_PIPES,
        stop_within_s=_STOP_WITHIN_S,
    ) as child:
        yield Worker(child, answer_within_s=options.answer_within_s)


def _state_dir(directory: Path, name: str) -> Path:
    return directory / name[0]  # paths of sockets are short


def _config(pair: PdPair, name: str, *, by_relay: bool) -> dict[str, object]:
    places, other = pair.places, DECODE if name == PREFILL else PREFILL
    address = places.relay if by_relay else places.addresses[other]
    cluster: dict[str, object] = {
        "node_id": name,
        "listen": places.addresses[name],
        "membership": {"type": "static", "peers": [{"id": other, "address": address}]},
        "dial_pause_max": "500ms",
        "pd": _pd(pair.options),
    }
    if by_relay:  # which knows one port
        cluster["channels"] = {"kinds": ["grpc"]}
    if places.is_beyond_loopback:
        nodes = pair.directory / "pki" / "nodes"
        cluster["tls_certificate"] = str(nodes / f"{name}.pem")
        cluster["tls_key"] = str(nodes / f"{name}.key")
        cluster["tls_ca"] = str(pair.directory / "pki" / "nodes-ca.pem")
    return {
        "state_dir": str(_state_dir(pair.directory, name)),
        "l1": {"bytes": f"{pair.options.l1_bytes}B"},
        "gateway": {
            "lease": f"{_TICKET_S:g}s",
            "deadline_max": f"{pair.options.answer_within_s:g}s",
        },
        "cluster": cluster,
    }


def _pd(options: DemoOptions) -> dict[str, object]:
    chunk_bytes = CHUNK_TOKENS * options.shape.kv_bytes_per_token(element_bytes=KV_ELEMENT_BYTES)
    chunks = -(-options.prompt_tokens_max // CHUNK_TOKENS) + 1
    receive = -(-2 * chunks * chunk_bytes // _PAGE_BYTES) * _PAGE_BYTES
    return {
        "receive": f"{receive}B",
        "max_prompt_tokens": options.prompt_tokens_max,
        "part_objects": _PART_CHUNKS,
        "idle": f"{IDLE_S:g}s",
        "transfer": f"{options.answer_within_s:g}s",
    }


def _make_certificates(directory: Path) -> None:
    """What `penstock certs` makes: an authority, and a certificate of each node. Raises ConfigError."""
    from penstock.actors.cli.certificate_files import issue, make_authority, pair_in

    pki = directory / "pki"
    authority = pair_in(pki, "nodes-ca")
    make_authority(authority, "Penstock demo", 1)
    for name in NAMES:
        issue(pair_in(pki / "nodes", name), authority, names=[name], serves=True, days=1)
