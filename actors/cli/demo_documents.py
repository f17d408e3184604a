"""What the demo reads: real text, cut to a length, and the questions asked about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.runtime.errors import CallerError

QUESTIONS = (
    "What is this text about? Answer in one sentence that a newcomer would understand at once.",
    "Which decision in it would be the hardest one to change later, and what speaks for it?",
    "Name three things that can go wrong here, and say for each how one would notice.",
    "Which part of it deserves a test first, and what would that test have to show?",
    "Who is meant to read this, and what must that reader already know before the start?",
    "What has been left out on purpose, and where could somebody find out more about it?",
    "Which words in it are used in a special sense, and what exactly does each one mean?",
    "If half of it had to go tomorrow, which half would you keep, and for what reason?",
)


class DocumentsRefused(CallerError):
    """Yours: a file cannot be read, is too short, or there are not enough files."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text as the engines see it."""

    name: str
    text: str


def prompt(document: Document, question: int) -> str:
    """The document first, so that all questions about it share its prefix."""
    return f"{document.text}\n\nQuestion: {QUESTIONS[question]}\nAnswer:"


def load_documents(files: Sequence[Path], *, tokens: int, tokens_min: int) -> list[Document]:
    """The given files, each cut to `tokens` bytes; raises DocumentsRefused below `tokens_min`."""
    names = _short_names(files)
    return [
        _read(path, name, tokens=tokens, tokens_min=tokens_min)
        for path, name in zip(files, names, strict=True)
    ]


def project_files(package: Path, *, count: int, tokens: int) -> list[Path]:
    """The project's own texts that are at least `tokens` bytes long: prose first, then the longest
    sources.

    `package` is the directory of the installed package; where it lies in a checkout, the checkout's
    README and docs are beside it. Raises DocumentsRefused when there are fewer than `count`.
    """
    prose, sources = _texts_beside(package)
    long_enough = [path for path in prose if path.stat().st_size >= tokens]
    sources = sorted(sources, key=lambda path: (-path.stat().st_size, path.name))
    long_enough += [path for path in sources if path.stat().st_size >= tokens]
    if len(long_enough) < count:
        raise DocumentsRefused(
            f"of {count} documents of {tokens} bytes {len(long_enough)} were found at {package}: "
            "name text files on the command line, or ask for less with --documents"
        )
    return long_enough[:count]


def _texts_beside(package: Path) -> tuple[list[Path], list[Path]]:
    checkout = package.parent
    if not (checkout / "pyproject.toml").is_file():
        return [], list(package.rglob("*.py"))
    prose = [checkout / "README.md", *sorted((checkout / "docs").rglob("*.md"))]
    sources = [
        path for folder in ("actors", "runtime") for path in (checkout / folder).rglob("*.py")
    ]
    return [path for path in prose if path.is_file()], sources


def _read(path: Path, name: str, *, tokens: int, tokens_min: int) -> Document:
    try:
        with path.open("rb") as file:
            data = file.read(tokens)
    except OSError as error:
        raise DocumentsRefused(f"{path} cannot be read: {error.strerror}") from error
    text = data.decode(errors="ignore")  # a character cut in two at the end is left out
    if len(text.encode()) < tokens_min:
        raise DocumentsRefused(
            f"{path} has {len(text.encode())} bytes of text: a hit takes at least {tokens_min}"
        )
    return Document(name, text)


def _short_names(files: Sequence[Path]) -> list[str]:
    """File names, with as much of the path as it takes to tell them apart."""
    return [next(_names_of(path, files), str(path)) for path in files]


def _names_of(path: Path, files: Sequence[Path]) -> Iterator[str]:
    for depth in range(1, len(path.parts) + 1):
        name = "/".join(path.parts[-depth:])
        if sum("/".join(other.parts[-depth:]) == name for other in files) == 1:
            yield name
