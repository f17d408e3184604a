"""Progress of a long command: lines where nobody watches, a bar where rich is."""

from __future__ import annotations

import pytest

from penstock.actors.cli.progress import progress


def test_lines_tell_the_last_step(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("count", steps=3) as shown:
        for n in range(3):
            shown.advance(f"at {n}")
    assert capsys.readouterr().err == "count: 3 of 3  at 2\n"


def test_a_bar_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich", reason="pip install 'penstock[replay]'")
    from penstock.actors.cli.progress_bar import bar

    with bar("count", steps=3) as shown:
        for n in range(3):
            shown.advance(f"at {n}")
    said = capsys.readouterr().err
    assert "count" in said
    assert "3/3" in said
    assert "at 2" in said
