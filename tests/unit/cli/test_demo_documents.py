"""Which texts the demo reads, and what it says about those it cannot read."""

from pathlib import Path

import pytest

from penstock.actors.cli.demo_documents import (
    Document,
    DocumentsRefused,
    load_documents,
    project_files,
    prompt,
)


def test_documents_are_cut_to_whole_characters(tmp_path: Path) -> None:
    """Goal: a cut never splits a character; the prefix is the same for every question."""
    path = tmp_path / "a.txt"
    path.write_text("\N{MOUNTAIN}" * 100)
    (document,) = load_documents([path], tokens=100, tokens_min=50)
    assert document == Document("a.txt", "\N{MOUNTAIN}" * 33)
    assert prompt(document, 0).startswith(document.text)
    assert prompt(document, 0) != prompt(document, 1)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Goal: the table's rows can be read."""
    paths = [tmp_path / "one" / "a.txt", tmp_path / "two" / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x" * 10)
    names = [document.name for document in load_documents(paths, tokens=10, tokens_min=1)]
    assert names == ["one/a.txt", "two/a.txt", "b.txt"]


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), ("short", "5 bytes")])
def test_a_file_that_will_not_do_is_refused(
    tmp_path: Path, content: str | None, words: str
) -> None:
    """Goal: one sentence that names the file."""
    path = tmp_path / "wanted.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DocumentsRefused, match=words) as refused:
        load_documents([path], tokens=100, tokens_min=6)
    assert str(path) in str(refused.value)


def test_a_checkout_gives_prose_first_then_the_longest_sources(tmp_path: Path) -> None:
    """Goal: the default documents are the project's own, the same in every run."""
    for name, size in (
        ("pyproject.toml", 1),
        ("README.md", 50),
        ("docs/LONG.md", 500),
        ("actors/short.py", 200),
        ("runtime/long.py", 300),
        ("penstock/__init__.py", 400),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x" * size)
    package = tmp_path / "penstock"
    found = project_files(package, count=3, tokens=100)
    assert [path.name for path in found] == ["LONG.md", "long.py", "short.py"]
    with pytest.raises(DocumentsRefused, match="of 4 documents of 100 bytes 3 were found"):
        project_files(package, count=4, tokens=100)


def test_an_installed_package_reads_its_own_sources(tmp_path: Path) -> None:
    """Goal: the demo needs no checkout."""
    package = tmp_path / "penstock"
    (package / "actors").mkdir(parents=True)
    (package / "actors" / "a.py").write_text("x" * 100)
    assert project_files(package, count=1, tokens=100) == [package / "actors" / "a.py"]
