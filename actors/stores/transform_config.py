"""How the transforms of a store are configured: what becomes of bytes between arena and medium.

- name: nvme
  type: file
  paths: /mnt/nvme/kv
  capacity: 500GiB
  transforms:
    - {type: zstd, level: 3}
    - {type: aes_256_gcm, keys_file: /run/secrets/kv-keys}
  bounce_bytes_max: 512MiB
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from penstock.runtime.config import ENV_PREFIX, Config

LEVEL_MAX = 19  # beyond, reading needs more than WINDOW_BYTES_MAX of transform_zstd.py

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Fp8Config(Config, frozen=True, tag_field="type", tag="fp8_e4m3"):
    """Halves 16-bit KV, with loss: kept here are objects of namespaces that name it, and no others."""


class ZstdConfig(Config, frozen=True, tag_field="type", tag="zstd"):
    """Compresses; what does not get smaller is stored as it is."""

    level: Annotated[int, msgspec.Meta(ge=1, le=LEVEL_MAX)] = 1


class AesGcmConfig(Config, frozen=True, tag_field="type", tag="aes_256_gcm"):
    """Encrypts, by master keys in a file or, if none is named, in a variable of the environment.

    One key a line: its number, 1 to 4294967295, and 64 hexadecimal digits. The first one encrypts; all of them decrypt.
    """

    keys_file: Path | None = None
    keys_variable: str = ""  # not read when there is a file

    def __post_init__(self) -> None:
        if self.keys_file is None and not self.keys_variable:
            raise ValueError("name the file of the master keys in keys_file")
        if self.keys_variable.upper().startswith(ENV_PREFIX):
            raise ValueError(f"keys_variable: {ENV_PREFIX}... are read as configuration keys")
        if self.keys_variable and not _VARIABLE.fullmatch(self.keys_variable):
            raise ValueError("keys_variable is no name of a variable")  # a key itself, maybe


AnyTransform: TypeAlias = Fp8Config | ZstdConfig | AesGcmConfig
ORDER = (Fp8Config, ZstdConfig, AesGcmConfig)  # of saving: what is encrypted does not compress


def check_transforms(transforms: tuple[AnyTransform, ...]) -> None:
    """Raises ValueError unless each is there at most once, in the order that works."""
    places = [ORDER.index(type(one)) for one in transforms]
    if any(first >= second for first, second in pairwise(places)):
        raise ValueError("transforms: give each once, in the order fp8_e4m3, zstd, aes_256_gcm")
