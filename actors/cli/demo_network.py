"""Where the two nodes of `penstock demo --pd` are: in two network namespaces, or on two ports of this machine.

Namespaces take root and iproute2. Two of them, with names that no other process takes, are joined by a veth pair that
never shows outside; what was made here is removed at the end, whatever happens. Only a demo that is killed by SIGKILL
leaves them, with nothing in them: `ip netns delete` removes them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from subprocess import DEVNULL, PIPE

import anyio

from penstock.runtime.errors import UnavailableError

PREFILL, DECODE = "prefill", "decode"
NAMES = (PREFILL, DECODE)
DELAY_MS, DELAYED_PERCENT = 20, 5

_PORT, _RELAY_PORT = 7700, 7701
_HOSTS = {PREFILL: "10.79.0.1", DECODE: "10.79.0.2"}
_LINK = "pd0"  # of each namespace
_COMMAND_WITHIN_S = 10.0


class NoNamespaces(UnavailableError):
    """Nobody's: this machine, or this user, makes no network namespaces; says why."""


class Network(Enum):
    """What the command line asks for."""

    AUTO = "auto"
    NAMESPACES = "namespaces"
    PORTS = "ports"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where each node listens for the other, and how a command is run there."""

    title: str  # for the reader
    addresses: dict[str, str]  # host:port by node
    relay: str  # host:port where the prefill node would find a relay to the decode node
    entered: dict[str, tuple[str, ...]]  # what a command begins with, by node
    device: str  # the prefill node's end of the wire; empty: it has none of its own

    @property
    def is_beyond_loopback(self) -> bool:
        """Whether nodes need certificates there."""
        return bool(self.device)

    async def slow_down(self) -> bool:
        """Have the wire delay some packets on their way to the decode node; whether it can."""
        if not self.device:
            return False
        # netem counts the other way round: all are delayed, but for those that go first.
        netem = ("netem", "delay", f"{DELAY_MS}ms", "reorder", f"{100 - DELAYED_PERCENT}%")
        tc = shutil.which("tc")
        added = ("qdisc", "add", "dev", self.device, "root", *netem)
        return tc is not None and not await _said([*self.entered[PREFILL], tc, *added])


@asynccontextmanager
async def places(network: Network) -> AsyncIterator[Places]:
    """Until the block ends. Raises NoNamespaces where they were asked for and cannot be had."""
    if network is Network.PORTS:
        yield _ports("two ports of this machine")
        return
    async with AsyncExitStack() as stack:
        try:
            found = await stack.enter_async_context(_namespaces())
        except NoNamespaces as refused:
            if network is Network.NAMESPACES:
                raise
            found = _ports(f"two ports of this machine ({refused})")
        yield found


def _ports(title: str) -> Places:
    """Ports that nobody listens at now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    prefill, decode, relay = (f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)
    for one in sockets:
        one.close()
    return Places(
        title=title,
        addresses={PREFILL: prefill, DECODE: decode},
        relay=relay,
        entered={PREFILL: (), DECODE: ()},
        device="",
    )


@asynccontextmanager
async def _namespaces() -> AsyncIterator[Places]:
    ip = shutil.which("ip")
    if os.geteuid() != 0:
        raise NoNamespaces("network namespaces take root")
    if ip is None:
        raise NoNamespaces("there is no `ip` of iproute2 for network namespaces")
    if importlib.util.find_spec("cryptography") is None:
        raise NoNamespaces(
            "between network namespaces nodes need certificates: pip install 'penstock[certs]'"
        )
    spaces = {name: f"penstock-{os.getpid()}-{name}" for name in NAMES}
    async with AsyncExitStack() as made:
        for space in spaces.values():
            with anyio.CancelScope(shield=True):  # made and to be removed, or neither
                await _do(ip, "netns", "add", space)
                made.push_async_callback(_remove, ip, space)
        peer = ("peer", "name", _LINK, "netns", spaces[DECODE])
        await _do(ip, "-n", spaces[PREFILL], "link", "add", _LINK, "type", "veth", *peer)
        for name, space in spaces.items():
            await _do(ip, "-n", space, "address", "add", f"{_HOSTS[name]}/24", "dev", _LINK)
            for device in ("lo", _LINK):
                await _do(ip, "-n", space, "link", "set", device, "up")
            await _do(ip, "netns", "exec", space, "true")
        yield Places(
            title="two network namespaces joined by a veth pair, mutual TLS between the nodes",
            addresses={name: f"{host}:{_PORT}" for name, host in _HOSTS.items()},
            relay=f"127.0.0.1:{_RELAY_PORT}",
            entered={name: (ip, "netns", "exec", space) for name, space in spaces.items()},
            device=_LINK,
        )


async def _do(*command: str) -> None:
    if problem := await _said(command):
        raise NoNamespaces(f"`{' '.join(command)}` says {problem}")


async def _remove(ip: str, space: str) -> None:
    """Also where the demo was interrupted. The wire goes with it."""
    with anyio.CancelScope(shield=True):
        await _said([ip, "netns", "delete", space])


async def _said(command: Sequence[str]) -> str:
    """Run it; what it complained about. Empty: it was done."""
    with anyio.move_on_after(_COMMAND_WITHIN_S):
        done = await anyio.run_process(
            command,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            check=False,
            start_new_session=True,  # Ctrl-C is for the demo alone, which then removes what it made
        )
        said = " ".join(done.stderr.decode(errors="replace").split())
        return (said or f"exit status {done.returncode}") if done.returncode else ""
    return f"nothing in {_COMMAND_WITHIN_S:g} s"
