"""The pages tell of what there is: files, decisions, and which test stands for which known failure."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = "actors|runtime|penstock|csrc|tests|docs|tools|protos"

# The known failures of this field, A1 to E5, and those of parts that are not built yet.
KNOWN = {
    f"{letter}{number}"
    for letter, most in {"A": 22, "B": 17, "C": 11, "D": 6, "E": 5}.items()
    for number in range(1, most + 1)
}
LATER = {"B16", "E5"}


def _ids(text: str) -> set[str]:
    return KNOWN & set(re.findall(r"\b[A-E]\d{1,2}\b", text))


@cache
def _named_by() -> dict[Path, set[str]]:
    """The known failures that the docstrings of each file of tests name."""
    named = {path: _ids(path.read_text()) for path in TESTS.rglob("test_*.cpp")}
    for path in TESTS.rglob("test_*.py"):
        if path == Path(__file__):
            continue
        tree = ast.parse(path.read_text())
        functions = (
            node
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and node.name.startswith("test_")
        )
        named[path] = _ids(" ".join(ast.get_docstring(one) or "" for one in (tree, *functions)))
    return named


def _rows() -> Iterator[tuple[set[str], set[str], set[str]]]:
    """Of the table of scenarios: ids, tests of a whole node, narrower tests."""
    for line in (ROOT / "docs" / "TESTING.md").read_text().splitlines():
        if re.match(r"\| [A-E]\d", line):
            ids, whole, narrower = line.strip("|").split("|")
            words = re.sub(r"\b(sim|csrc|contract):", "", narrower)
            yield _ids(ids), set(re.findall(r"\bstored_\w+", whole)), set(re.findall(r"\w+", words))


def _ids_of(test: str) -> set[str]:
    """Of all files of this name, such as those of simulations and of native tests."""
    found = [ids for path, ids in _named_by().items() if path.stem == f"test_{test}"]
    assert found, f"docs/TESTING.md: there is no test_{test}"
    return set[str]().union(*found)


def test_every_known_failure_has_a_test_or_waits_for_its_part() -> None:
    named = set[str]().union(*_named_by().values())
    assert KNOWN - named == LATER
    assert _ids((ROOT / "docs" / "TESTING.md").read_text()) == KNOWN


def test_the_table_of_scenarios_names_tests_that_stand_for_them() -> None:
    """Seen to fail with A10 told of file_folder, whose test of it had moved, and with a name that was no file."""
    rows = list(_rows())
    assert rows
    for ids, whole, narrower in rows:
        assert ids <= set[str]().union(*map(_ids_of, whole)), f"{ids}: not all in {whole}"
        for test in narrower:
            assert ids & _ids_of(test), f"test_{test} stands for none of {ids}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    """Links, and paths of files and folders. Seen to fail with one letter of any of them changed."""
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)", text)
    paths = re.findall(rf"(?<![\w/.`-])`?((?:{ROOMS})/[\w./*-]*\w)", text)
    gone = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    gone += [path for path in paths if "NAME" not in path and not _is_there(path)]
    assert not gone, f"{page.name}: {gone}"


def _is_there(path: str) -> bool:
    return any(ROOT.glob(path)) or any(ROOT.glob(f"{path}*"))


def test_decisions_are_numbered_without_a_gap_and_named_by_their_number() -> None:
    """Seen to fail while there was no tenth."""
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for number, path in enumerate(decisions, start=1):
        assert path.read_text().startswith(f"# {number}. "), path.name
    sources = [*PAGES, *(ROOT / "actors").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")]
    for page in sources:
        for number in re.findall(r"\bADR (\d+)", page.read_text()):
            assert 1 <= int(number) <= len(decisions), f"{page.name}: there is no ADR {number}"
