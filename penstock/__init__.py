"""Penstock: a distributed KV-cache runtime for LLM serving."""

from importlib.metadata import version

__version__ = version("penstock")
__all__ = ["__version__"]
