"""Which sources of members there are, and how each is opened. The only list of them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import assert_never

from penstock.runtime.certificates import Certificates
from penstock.runtime.errors import ConfigError
from penstock.runtime.membership import Membership
from penstock.runtime.membership_config import AnyMembership, DnsConfig, EtcdConfig, StaticConfig
from penstock.runtime.static_membership import static_membership


def open_membership(
    config: AnyMembership, my_id: str, certificates: Certificates | None
) -> AbstractAsyncContextManager[Membership]:
    """The source that `config` describes, for the node `my_id`. It lives while it is entered; `announce` tells it where
    this node is, once its port is known. Entering raises ConfigError, and nothing after that does.
    """
    match config:
        case StaticConfig():
            return static_membership(config, my_id)
        case EtcdConfig():
            from penstock.runtime.etcd_membership import etcd_membership

            return etcd_membership(config, my_id)
        case DnsConfig():
            from penstock.runtime import dns_membership as dns

            if certificates is None:
                raise ConfigError(
                    "cluster.membership",
                    "dns reads who is at an address from its certificate, and needs the tls_ keys",
                )
            identify = dns.by_certificate(certificates, config.identify_within)
            resolve = dns.system_resolver()
            return dns.dns_membership(config, my_id, resolve=resolve, identify=identify)
        case _:
            assert_never(config)
