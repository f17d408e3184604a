"""No test sleeps: virtual time is free, real time is a guess at how long something takes.

A test that runs on a `SimLoop` may sleep, for its clock jumps. So what is banned is a sleep that a real loop can come
to: one in something that runs a real loop, or hands its work to something that does, or in what those refer to by its
name. Everything is read from the sources.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.plain_names import plain

TESTS = Path(__file__).resolve().parent
SLEEPS = {"anyio.sleep", "anyio.sleep_until", "asyncio.sleep", "trio.sleep", "trio.sleep_until"}
REAL_LOOPS = {
    *("anyio.run", "asyncio.run", "asyncio.Runner", "asyncio.new_event_loop", "trio.run"),
    *("anyio.from_thread.start_blocking_portal", "pytest.mark.anyio"),
}
# The one place that looks again under a deadline, and benchmarks, which measure real time.
ALLOWED = ("support/eventually", "bench/")


@dataclass
class Unit:
    """A function, class or assignment at the top of a file, and what it says."""

    place: str  # as in "unit/runtime/test_actor:45"
    names: set[str] = field(default_factory=set)  # dotted, of all it refers to
    sleeps: list[int] = field(default_factory=list)  # lines that sleep for more than no time
    is_real: bool = False  # it runs a real loop, or is run on one by pytest


def units_of(module: str, text: str) -> dict[str, Unit]:
    """By name."""
    units: dict[str, Unit] = {}
    for node in plain(ast.parse(text)).body:
        for name in _defined_by(node):
            unit = units[name] = Unit(f"{module}:{node.lineno}")
            unit.is_real = isinstance(node, ast.AsyncFunctionDef) and name.startswith("test_")
            for inner in ast.walk(node):
                _note(unit, inner)
    return units


def _defined_by(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [
                one.id
                for target in targets
                for one in ast.walk(target)
                if isinstance(one, ast.Name)
            ]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _note(unit: Unit, node: ast.AST) -> None:
    match node:
        case ast.Call(func=function, args=args) if ast.unparse(function) in SLEEPS:
            is_for_no_time = isinstance(args[0], ast.Constant) and args[0].value == 0
            if not is_for_no_time:
                unit.sleeps.append(node.lineno)
        case ast.Name() | ast.Attribute():
            unit.names.add(ast.unparse(node))
            unit.is_real |= ast.unparse(node) in REAL_LOOPS
        case ast.arg(arg=fixture):
            unit.names.add(fixture)


def offences(texts: dict[str, str]) -> Iterator[str]:
    """Sleeps of real loops in files, which are given by their names without .py."""
    files = {
        module: units_of(module, text)
        for module, text in texts.items()
        if not module.startswith(ALLOWED)
    }
    uses = {
        unit.place: [found for name in sorted(unit.names) for found in _found(name, module, files)]
        for module, units in files.items()
        for unit in units.values()
    }
    every = {unit.place: unit for units in files.values() for unit in units.values()}
    users: dict[str, list[Unit]] = {}
    for place, used in uses.items():
        for one in used:
            users.setdefault(one.place, []).append(every[place])
    runners = _reached([unit for unit in every.values() if unit.is_real], users)
    for unit in _reached(runners, uses):
        for line in unit.sleeps:
            yield f"{unit.place.partition(':')[0]}:{line}: wait for the event itself, or simulate()"


def _reached(begun: list[Unit], ways: dict[str, list[Unit]]) -> list[Unit]:
    """Those units, and all to which ways lead from them."""
    left, reached = list(begun), dict[str, Unit]()
    while left:
        unit = left.pop()
        if unit.place not in reached:
            reached[unit.place] = unit
            left += ways.get(unit.place, [])
    return list(reached.values())


def _found(name: str, module: str, files: dict[str, dict[str, Unit]]) -> Iterator[Unit]:
    """What `name` can mean in `module`: its own, a fixture's, or what it has imported from another file."""
    folder = module.rpartition("/")[0]
    fixtures = [f"{folder}/conftest", f"{folder.rpartition('/')[0]}/conftest", "conftest"]
    for own in (module, *fixtures):
        if name in files.get(own, {}):
            yield files[own][name]
    path, _, last = name.replace(".", "/").rpartition("/")
    for other in (path, f"{folder}/{path}"):
        if last in files.get(other, {}):
            yield files[other][last]


def test_no_test_sleeps_on_a_real_loop() -> None:
    """Seen to fail for five tests: of idle clients, of slow buckets and of connections that stall."""
    texts = {
        path.relative_to(TESTS).with_suffix("").as_posix(): path.read_text()
        for path in sorted(TESTS.rglob("*.py"))
    }
    wrong = sorted(set(offences(texts)))
    assert not wrong, "\n".join(wrong)


HELPER = "import anyio\nclass Slow:\n    async def ask(self):\n        await anyio.sleep(1)\n"


@pytest.mark.parametrize(
    "text",
    [
        "import anyio\nasync def test_it():\n    await anyio.sleep(0.5)",
        "from asyncio import sleep as nap\nasync def test_it():\n    await nap(1)",
        "import anyio\nasync def main():\n    await anyio.sleep(s)\ndef test_it():\n    anyio.run(main)",
        "import trio\nasync def test_it():\n    await trio.sleep_until(9)",
        "from support.slow import Slow\nasync def test_it():\n    await Slow().ask()",
        "from support import slow\nasync def test_it():\n    await slow.Slow().ask()",
        "import anyio\n@fixture\nasync def late():\n    await anyio.sleep(1)\nasync def test_it(late): ...",
        "import asyncio\ndef test_it():\n    async def f():\n        await asyncio.sleep(1)\n    asyncio.run(f())",
        "import anyio\ndef play(f):\n    anyio.run(f)\ndef test_it():\n    play(lambda: anyio.sleep(1))",
    ],
)
def test_a_real_sleep_is_found(text: str) -> None:
    assert list(offences({"unit/test_it": text, "support/slow": HELPER}))


@pytest.mark.parametrize(
    "text",
    [
        "import anyio\nasync def main():\n    await anyio.sleep(1)\ndef test_it():\n    simulate(1, main)",
        "import asyncio\nasync def test_it():\n    await asyncio.sleep(0)",
        "import anyio\nasync def test_it():\n    await anyio.sleep_forever()",
        "from support.slow import Slow\ndef test_it():\n    simulate(1, Slow().ask)",
        "from support.eventually import eventually\nasync def test_it():\n    await eventually()",
    ],
)
def test_what_waits_for_nothing_real_is_left_alone(text: str) -> None:
    eventually = "import anyio\nasync def eventually():\n    await anyio.sleep(0.005)"
    texts = {"unit/test_it": text, "support/slow": HELPER, "support/eventually": eventually}
    assert not list(offences(texts))
