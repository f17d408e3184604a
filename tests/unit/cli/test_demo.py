"""The demo's command line."""

import argparse
import importlib.util
from pathlib import Path

import pytest

from penstock.actors.cli import demo


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_parser(parser.add_subparsers())
    return parser.parse_args(["demo", *arguments])


@pytest.mark.parametrize(
    ("absent", "arguments", "said"),
    [
        ({"torch"}, [], "torch not installed: pip install 'penstock[demo]'"),
        ({"rich", "torch"}, [], "torch and rich not installed: pip install 'penstock[demo]'"),
        (
            {"matplotlib"},
            ["--plot=a.png"],
            "matplotlib not installed: pip install 'penstock[demo]'",
        ),
    ],
)
def test_what_is_not_installed_is_named_with_the_cure(
    absent: set[str],
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Goal: one sentence with the install command, before anything is started."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else found(name)
    )
    assert demo.run(parsed(*arguments)) == 1
    assert capsys.readouterr().err == f"penstock demo: {said}\n"


def test_matplotlib_is_needed_for_a_plot_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Goal: without --plot its absence stops nothing; the next complaint is another one."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    assert demo.run(parsed(str(tmp_path / "absent"))) == 1
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argument",
    ["--rounds=1", "--questions=9", "--documents=0", "--document-tokens=511", "--threads=two"],
)
def test_a_number_out_of_range_is_refused(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goal: the range is named, in argparse's way."""
    with pytest.raises(SystemExit):
        parsed(argument)
    assert "a whole number from" in capsys.readouterr().err
