"""Writes the corpus: the named scenarios, and of what fuzzing found only what covers more than they do.

python tests/fuzz/make_corpus.py                write the scenarios; drop files that are none any more
python tests/fuzz/make_corpus.py --merge DIR    and add from DIR what covers more, least first (needs atheris)
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from corpus_scenarios import scenarios
from session_input import Input

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
FOUND = "fuzz-"  # begins the names of files that no scenario writes
FOUND_MAX = 64  # files of the fuzzer's own making that are kept: the smallest of those that cover an edge more


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--merge", type=Path, metavar="DIR")
    options = parser.parse_args(arguments)
    write_scenarios(CORPUS)
    if options.merge is not None:
        merge(options.merge)
    files = list(CORPUS.iterdir())
    print(f"{len(files)} files, {sum(file.stat().st_size for file in files)} bytes")


def write_scenarios(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    names = set()
    for name, given in scenarios():
        names.add(name)
        (folder / name).write_bytes(given.encode())
    for file in folder.iterdir():
        if file.name not in names and not file.name.startswith(FOUND):
            file.unlink()


def merge(found: Path) -> None:
    """Keep of `found`, and of what was kept before, what covers more than the scenarios."""
    with tempfile.TemporaryDirectory() as scratch:
        chosen, named = Path(scratch) / "chosen", Path(scratch) / "named"
        chosen.mkdir()
        write_scenarios(named)
        before = Path(scratch) / "before"
        before.mkdir()
        for file in CORPUS.glob(f"{FOUND}*"):
            file.rename(before / file.name)
        # libFuzzer takes what its first folder has as given, and adds to it from the others, smallest files first.
        for file in named.iterdir():
            (chosen / file.name).write_bytes(file.read_bytes())
        subprocess.run(
            [
                sys.executable,
                HERE / "fuzz_worker.py",
                scratch,
                "1e9",
                "-merge=1",
                "-use_counters=0",  # an edge more, not an edge more often
                chosen,
                found,
                before,
            ],
            check=True,
        )
        added = [file for file in chosen.iterdir() if not (named / file.name).exists()]
        for file in sorted(added, key=lambda one: one.stat().st_size)[:FOUND_MAX]:
            data = Input.decode(file.read_bytes()).encode()
            (CORPUS / f"{FOUND}{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1:])
