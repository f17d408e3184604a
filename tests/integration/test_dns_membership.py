"""Members by DNS, asked of the system's resolver; who they are is read from real certificates."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.eventually import eventually
from support.peer_pki import Authority

from penstock.runtime.certificates import Certificates
from penstock.runtime.dns_membership import by_certificate, system_resolver
from penstock.runtime.errors import ConfigError
from penstock.runtime.membership import Member, MembershipFailed
from penstock.runtime.membership_config import DnsConfig
from penstock.runtime.membership_opening import open_membership
from penstock.runtime.peer_transport import PeerLimits, PeerListenSpec, serving_peers
from penstock.runtime.security import TcpAddress

pytestmark = pytest.mark.anyio
LIMITS = PeerLimits(
    message_bytes_max=1 << 20,
    keepalive_s=10,
    calls_max=8,
    calls_per_s_max=1000,
    connections_max=16,
    handshake_s=5,
)


async def test_who_is_behind_a_name_is_read_from_their_certificates(tmp_path: Path) -> None:
    """A node of another authority is no member. Seen to fail with verify_mode CERT_NONE in `_proven`."""
    authority = Authority(tmp_path / "pki")
    b = Certificates(authority.issue("b"), "b")
    a = Certificates(authority.issue("a"), "a")
    spec = PeerListenSpec(TcpAddress("127.0.0.1", 0), LIMITS, stop_s=0.1)
    async with serving_peers(spec, [], b) as door:
        port = door.address.port
        config = DnsConfig(name="127.0.0.1", port=port)
        async with open_membership(config, "a", a) as membership:

            async def found() -> bool:
                return membership.members == (Member("b", f"127.0.0.1:{port}"),)

            await eventually(found, within=5, what="b is a member")
            assert membership.degraded == ""
        foreign = Certificates(Authority(tmp_path / "other").issue("a"), "a")
        with pytest.raises(MembershipFailed, match="certificate verify failed"):
            await by_certificate(foreign, 5)(door.address.target())
    with pytest.raises(MembershipFailed, match=f"127.0.0.1:{port}"):
        await by_certificate(a, 5)(f"127.0.0.1:{port}")


async def test_a_name_that_is_not_there_is_said_so() -> None:
    with pytest.raises(MembershipFailed, match=r"no-such-name.invalid: gaierror"):
        await system_resolver()("no-such-name.invalid", 7700)
    with pytest.raises(ConfigError, match="needs the tls_ keys"):
        open_membership(DnsConfig(name="n", port=1), "a", None)
