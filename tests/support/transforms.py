"""Keys and namespaces for stores with transforms."""

from __future__ import annotations

from pathlib import Path

from penstock.actors.core.lossy import LossyNamespaces
from penstock.actors.core.namespace import Attention, Group, GroupShard, Namespace
from penstock.actors.stores.samples import NAMESPACE

KEYS_A = f"7 {'1f' * 32}\n"
KEYS_B = f"# the next one\n8 {'2e' * 32}\n"


def write_keys(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def namespace(*, transform: str = "fp8_e4m3", dtype: str = "bfloat16") -> Namespace:
    group = Group(("0",), Attention.FULL, 0, 1, 64, 1, dtype, (GroupShard(128, 0, 1),))
    return Namespace(
        weights="0" * 40,
        model_config_digest=bytes(32),
        kv_scales_digest=bytes(32),
        transform=transform,
        chunk_tokens=16,
        groups=(group,),
    )


def lossy_of_samples() -> LossyNamespaces:
    """Samples may be cast."""
    lossy = LossyNamespaces()
    lossy.learn(NAMESPACE, namespace())
    return lossy
