"""A node that does nothing but be a member: `member_process.py ID ENDPOINT LEASE_S`, until it is killed."""

from __future__ import annotations

import sys

import anyio

from penstock.runtime.etcd_membership import etcd_membership
from penstock.runtime.membership import Member
from penstock.runtime.membership_config import EtcdConfig
from penstock.runtime.units import Seconds


async def main() -> None:
    me, endpoint, lease_s = sys.argv[1:]
    config = EtcdConfig(endpoints=(endpoint,), lease=Seconds(float(lease_s)))
    async with etcd_membership(config, me) as membership:
        await membership.announce(Member(me, "127.0.0.1:7700", b"killed"))
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main)
