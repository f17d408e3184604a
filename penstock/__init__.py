"""Penstock: a distributed KV-cache runtime for LLM serving.

`Node` runs a node in this process, `Client` attaches an engine to one. Both are imported when first used, so that
the command line and engines load only what they need.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.actors.engine.client import Client
    from penstock.actors.node import Node

__version__ = version("penstock")
__all__ = ["Client", "Node", "__version__"]

_HOMES = {"Client": "penstock.actors.engine.client", "Node": "penstock.actors.node"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
