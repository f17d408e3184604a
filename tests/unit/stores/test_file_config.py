"""How file stores are configured: paths in all their forms, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.actors.config_words import PolicyName, TenantQuota
from penstock.actors.stores.config import OwnershipName
from penstock.actors.stores.file_config import FileConfig, FileIo, Placement
from penstock.runtime.units import GIB, ByteSize


def configured(**given: Any) -> FileConfig:
    defaults: dict[str, Any] = {"name": "disk", "capacity": ByteSize(GIB), "paths": "/a"}
    return FileConfig(**defaults | given)


@pytest.mark.parametrize(
    ("paths", "folders"),
    [
        ("/mnt/a", ["/mnt/a"]),
        ("/mnt/a,/mnt/b", ["/mnt/a", "/mnt/b"]),
        (" /mnt/a , file:///mnt/b ", ["/mnt/a", "/mnt/b"]),
        ("file:///mnt/a", ["/mnt/a"]),
        ("file://localhost/mnt/a%20b", ["/mnt/a b"]),
        (("/mnt/a", "file:///mnt/b,/mnt/c"), ["/mnt/a", "/mnt/b", "/mnt/c"]),
    ],
)
def test_paths_are_written_as_one_likes(paths: str | tuple[str, ...], folders: list[str]) -> None:
    assert configured(paths=paths).folders() == tuple(map(Path, folders))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"paths": "mnt/a"}, "'mnt/a' is not absolute"),
        ({"paths": ""}, "not absolute"),
        ({"paths": "/a,"}, "'' is not absolute"),
        ({"paths": ()}, "must name a folder"),
        ({"paths": "/a,/b/../a"}, "named twice"),
        ({"paths": "s3://bucket/a"}, "no file:// URI of this machine"),
        ({"paths": "file://elsewhere/a"}, "no file:// URI of this machine"),
        ({"paths": "file:///a?x=1"}, "more than a path"),
        ({"capacity": ByteSize(0)}, "needs a capacity"),
        ({"ownership": OwnershipName.SHARED}, "capacity: others write there too"),
        (
            {
                "ownership": OwnershipName.SHARED,
                "capacity": ByteSize(0),
                "tenant_bytes_max": ByteSize(1),
                "quotas": (TenantQuota(salt="a", bytes=ByteSize(1)),),
                "policy": PolicyName.ARC,
            },
            "policy, tenant_bytes_max, quotas: others write there too",
        ),
        ({"jobs_max": 8}, "jobs_max must be at least depth, 64"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        configured(**given)


def test_it_is_read_from_plain_values() -> None:
    tree = {
        "type": "file",
        "name": "disk",
        "paths": ["/a", "/b"],
        "placement": "by_device",
        "io": "buffered",
        "ownership": "shared",
    }
    config = msgspec.convert(tree, FileConfig)
    assert config.io is FileIo.BUFFERED
    assert config.placement is Placement.BY_DEVICE
    assert config.folders() == (Path("/a"), Path("/b"))
