"""Layers: a file imports only what stands to its left, and each room keeps to itself.

Read from the sources by `ast`; an import under `TYPE_CHECKING` or inside a function counts for the
layers, but not for what a module needs to be loaded.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Where a file stands: a file imports only what stands to its left, or beside it. First match wins.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "runtime/(__init__|errors|message|deadline|log|units|transcript|hazard|begun|config_problems)",
    ),
    ("runtime/(mailbox|ref|service|actor|supervisor|telemetry|actor_metrics|config|watchdog)",),
    (
        "runtime/(security|claim|accepting|background|slow_steps|membership|membership_config|watched_files|channel)",
    ),
    (
        "runtime/(grpc_transport|identity|grpc_health|call_places|sim_loop|sim_net|sim_sources|sim_disk)",
        "runtime/(native_channel|native_connection|tcp_options|grpc_channel|grpc_stream|grpc_frames|channel_landings|nixl_[a-z]+|negotiation|certificates)",
        "runtime/(static|dns|etcd)_[a-z_]+",
        "runtime/(membership_opening|peer_transport|peer_gate|strangers|member_book)",
    ),
    ("actors/__init__", "actors/api/.*"),
    ("actors/core/.*",),
    ("actors/stores/.*", "actors/engine/.*", "actors/(?!node$)[a-z0-9_]+"),
    ("actors/node",),
    ("actors/router/.*",),
    ("actors/cli/.*", "penstock/.*"),
)
NATIVE = (
    r"actors/stores/.*|actors/engine/.*|runtime/native_(channel|connection)|actors/cli/simulate"
)
NATIVE += r"|actors/l1_(manager|watching|geometries|expiry|loading|saving|contents|metrics)"
NATIVE += r"|actors/l1_(life_cycle|staging|making|refusals)|actors/directory_(own|peers)"
NATIVE += r"|actors/node"  # the composition root makes the arena and the table
ROOTS = r"actors/node|actors/node_(cluster|peers)"  # who makes actors may know them
ENGINE_MAY = (
    r"runtime/.*|actors/(api|core|engine)/.*|actors/(keys|weights|__init__)|penstock/__init__"
)
CORE_MAY_NOT = {
    "anyio",
    "asyncio",
    "logging",
    "os",
    "random",
    "secrets",
    "socket",
    "threading",
    "time",
}


@dataclass(frozen=True)
class Source:
    """One Python file of the product."""

    name: str  # as in "actors/core/prefix", without .py
    tree: ast.Module


@cache
def product() -> tuple[Source, ...]:
    paths = [
        path for room in ("runtime", "actors", "penstock") for path in (ROOT / room).rglob("*.py")
    ]
    names = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(paths)}
    return tuple(Source(name, ast.parse(path.read_text())) for name, path in names.items())


def _imports(source: Source) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, whether it happens when the module is loaded) of every import."""
    for node, is_top in _walk(source.tree, is_top=True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, is_top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.name}:{node.lineno}: import by the full name"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}", is_top


def _walk(node: ast.AST, *, is_top: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, is_top
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or typing_only
        yield from _walk(child, is_top=is_top and not inside)


def _target(dotted: str) -> str | None:
    """The project file behind a dotted name: "penstock.actors.api.l1.Pin" is "actors/api/l1"."""
    if dotted != "penstock" and not dotted.startswith("penstock."):
        return None
    parts = dotted.split(".")[1:]
    for length in range(len(parts), 0, -1):
        name = "/".join(parts[:length])
        for candidate in (name, f"{name}/__init__"):
            if (ROOT / f"{candidate}.py").exists():
                return candidate
    return parts[0] if parts and parts[0] in {"_native", "protos"} else "penstock/__init__"


def _layer(name: str) -> int:
    for number, patterns in enumerate(LAYERS):
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            return number
    pytest.fail(f"{name}.py stands in no layer: add it to LAYERS in tests/test_tidy.py")


def _edges() -> Iterator[tuple[Source, int, str, bool]]:
    for source in product():
        for line, dotted, is_top in _imports(source):
            target = _target(dotted)
            if target is not None and target != source.name:
                yield source, line, target, is_top


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("runtime/errors", "runtime/ref"),
        ("runtime/supervisor", "runtime/grpc_transport"),
        ("runtime/sim_net", "actors/api/l1"),
        ("actors/api/l1", "actors/core/prefix"),
        ("actors/core/prefix", "actors/l1_manager"),
        ("actors/core/prefix", "actors/stores/file"),
        ("actors/gateway", "actors/node"),
        ("actors/node", "actors/cli/serve"),
    ],
)
def test_the_table_puts_each_room_where_it_belongs(left: str, right: str) -> None:
    assert _layer(left) < _layer(right)


def test_a_file_imports_only_from_the_left() -> None:
    wrong = [
        f"{source.name}:{line} imports {target}, which stands to its right"
        for source, line, target, _ in _edges()
        if target not in {"_native", "protos", "penstock/__init__"}
        and _layer(target) > _layer(source.name)
    ]
    assert not wrong, "\n".join(wrong)


def test_runtime_knows_nothing_of_actors() -> None:
    wrong = [
        f"{source.name}:{line} imports {target}"
        for source, line, target, _ in _edges()
        if source.name.startswith("runtime/")
        and not target.startswith(("runtime/", "_native"))
        and not (target == "protos" and source.name.startswith("runtime/etcd_"))  # etcd's, not ours
    ]
    assert not wrong, "\n".join(wrong)


def test_native_is_imported_only_where_it_is_allowed() -> None:
    wrong = [
        f"{source.name}:{line} imports _native; go through a store, the L1 manager or engine/"
        for source, line, target, _ in _edges()
        if target == "_native" and not re.fullmatch(NATIVE, source.name)
    ]
    assert not wrong, "\n".join(wrong)


def test_engine_code_imports_nothing_of_the_node() -> None:
    wrong = [
        f"{source.name}:{line} imports {target}"
        for source, line, target, _ in _edges()
        if source.name.startswith("actors/engine/")
        and target not in {"_native", "protos"}
        and not re.fullmatch(ENGINE_MAY, target)
    ]
    assert not wrong, "\n".join(wrong)


def test_an_actors_module_is_imported_by_the_composition_root_alone() -> None:
    """A shell imports another actor's api, never its module."""
    actors = {source.name for source in product() if _defines_an_actor(source)}
    wrong = [
        f"{source.name}:{line} imports {target}; import its api instead"
        for source, line, target, _ in _edges()
        if target in actors and not re.fullmatch(ROOTS, source.name)
    ]
    assert not wrong, "\n".join(wrong)


def _defines_an_actor(source: Source) -> bool:
    """Whether a shell derives a class from `Actor` or from an actor's address in actors/api."""
    if not re.fullmatch("actors/[a-z0-9_]+", source.name):
        return False
    bases = (
        base
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    )
    return any(ast.unparse(base).partition("[")[0] in _actor_names() for base in bases)


@cache
def _actor_names() -> frozenset[str]:
    names = {"Actor"}
    for source in product():
        if source.name.startswith("actors/api/"):
            for node in source.tree.body:
                if isinstance(node, ast.ClassDef) and any(
                    ast.unparse(base).startswith("Actor[") for base in node.bases
                ):
                    names |= {node.name, f"{source.name.rpartition('/')[2]}.{node.name}"}
    return frozenset(names)


def test_the_core_decides_and_does_nothing_else() -> None:
    """actors/core: standard library and api only; no clock, no I/O, no await."""
    wrong = []
    for source in product():
        if not source.name.startswith("actors/core/"):
            continue
        for line, dotted, _ in _imports(source):
            root, target = dotted.partition(".")[0], _target(dotted)
            ours = target is not None and target.startswith(("actors/api/", "actors/core/"))
            if not ours and (root not in sys.stdlib_module_names or root in CORE_MAY_NOT):
                wrong.append(f"{source.name}:{line} imports {dotted}")
        waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
        wrong += [
            f"{source.name}:{node.lineno} waits"
            for node in ast.walk(source.tree)
            if isinstance(node, waits)
        ]
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_need_each_other_to_load() -> None:
    needs: dict[str, set[str]] = {}
    for source, _, target, is_top in _edges():
        if is_top and not target.startswith("penstock/"):
            needs.setdefault(source.name, set()).add(target)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for target in sorted(needs.get(name, ())):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(needs):
        visit(name, ())
