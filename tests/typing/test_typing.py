"""The type checker rejects misuse: every `# expect-error: words` is reported by mypy, and nothing
else is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import penstock
import penstock.runtime

HERE = Path(__file__).parent
CASES = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
EXPECTED = re.compile(r"# expect-error: (?P<words>.+)$")
REPORTED = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: (?P<text>.+)$")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which mypy finds `penstock` as it is installed, be it a wheel or editable."""
    folder = tmp_path_factory.mktemp("typing")
    inside = folder / "penstock"
    inside.mkdir()
    for entry in Path(penstock.__path__[0]).iterdir():
        if entry.name != "runtime":
            (inside / entry.name).symlink_to(entry)
    (inside / "py.typed").touch()
    (inside / "runtime").symlink_to(penstock.runtime.__path__[0])
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_type_checker_rejects_misuse(case: Path, package: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file="]
    command += ["--enable-error-code=unused-awaitable", f"--cache-dir={package / 'cache'}"]
    environment = {**os.environ, "MYPYPATH": str(package)}
    done = subprocess.run(
        [*command, case.name],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    reported = [REPORTED.match(line) for line in done.stdout.splitlines()]
    seen = {(int(hit["line"]), hit["text"]) for hit in reported if hit and hit["file"] == case.name}
    lines = enumerate(case.read_text().splitlines(), start=1)
    wanted = {(n, hit["words"]) for n, line in lines if (hit := EXPECTED.search(line))}
    assert wanted, "a case that expects nothing tests nothing"
    missing = [want for want in wanted if not any(_meets(want, report) for report in seen)]
    surplus = [report for report in seen if not any(_meets(want, report) for want in wanted)]
    assert (missing, surplus) == ([], []), done.stdout + done.stderr


def _meets(wanted: tuple[int, str], reported: tuple[int, str]) -> bool:
    return wanted[0] == reported[0] and wanted[1] in reported[1]
