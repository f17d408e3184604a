"""Coverage of the product's Python under the fuzzer, whether it is installed as a wheel or editable.

The fuzzer's own import hook asks loaders for code in a way that the loaders of editable installs do not answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType

import atheris

INSTRUMENTED = ("penstock.actors", "penstock.runtime")
PLAIN = (  # what only tests use, and the watchdog, which would time itself
    "penstock.runtime.sim_loop",
    "penstock.runtime.sim_sources",
    "penstock.runtime.transcript",
    "penstock.runtime.watchdog",
)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        code = super().get_code(fullname)
        return None if code is None else atheris.patch_code(code, True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(INSTRUMENTED) or fullname in PLAIN:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                return _instrumented(spec)
        return None


def _instrumented(spec: ModuleSpec) -> ModuleSpec | None:
    if spec.origin is None or not spec.origin.endswith(".py"):
        return spec
    return spec_from_file_location(
        spec.name,
        spec.origin,
        loader=_Loader(spec.name, spec.origin),
        submodule_search_locations=spec.submodule_search_locations,
    )


@contextmanager
def instrumented_imports() -> Iterator[None]:
    """What is imported inside the block for the first time reports its coverage."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
