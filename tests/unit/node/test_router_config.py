"""The router's configuration: what it refuses, and how."""

from __future__ import annotations

import pytest

from penstock.actors.router.config import RouterConfig
from penstock.runtime.config import load_config
from penstock.runtime.errors import ConfigError

ONE = {"name": "e0", "url": "http://127.0.0.1:8100"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"backends": []}, "name at least one engine"),
        ({"backends": [ONE, ONE]}, "one name"),
        ({"backends": [{**ONE, "url": "127.0.0.1:8100"}]}, "url"),
        ({"backends": [{**ONE, "name": "E 0"}]}, "name"),
        ({"backends": [{**ONE, "role": "prefill"}]}, "node"),
        ({"backends": [{**ONE, "role": "prefill", "node": "a"}]}, "decode"),
        ({"backends": [{**ONE, "role": "decode", "node": "a"}]}, "prefill or mixed"),
        ({"backends": [ONE], "listen": "0.0.0.0:8000"}, "token_file and tls_certificate"),
        ({"backends": [ONE], "listen": "unix:///x.sock"}, "host:port"),
        ({"backends": [ONE], "away_for": 0}, "away_for"),
        ({"backends": [ONE], "tls_key": "/k"}, "tls_key"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(given: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(RouterConfig, overrides=given)
