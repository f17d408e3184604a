"""What the first `make` says while it sets up, which takes minutes."""

from __future__ import annotations

import subprocess
from pathlib import Path

FOLLOW = Path(__file__).parents[3] / "tools" / "pip_progress.awk"
SAID_BY_PIP = [
    *(f"Collecting package-{n}==1.0 (from penstock==0.1)" for n in range(10)),
    "Collecting torch==2.13.0 (from penstock==0.1)",
    "  Downloading torch-2.13.0-cp311-linux_x86_64.whl (187.3 MB)",
    "Collecting numpy<3,>=2",
    "  Downloading numpy-2.4.0-cp311-manylinux.whl (16.2 MB)",
    "Requirement already satisfied: six in ./x",
    "  Building editable for penstock (pyproject.toml): started",
    "  Building editable for penstock (pyproject.toml): still running...",
    "  Building editable for penstock (pyproject.toml): finished with status 'done'",
    "Installing collected packages: torch, numpy, penstock",
]


def test_what_takes_minutes_is_told_of_in_few_lines() -> None:
    """Seen to fail: nothing was said until all was done."""
    command = ["awk", "-v", "known=104", "-f", str(FOLLOW)]
    given = "\n".join(SAID_BY_PIP) + "\n"
    told = subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [
        "penstock:   package 1 of at most 104: package-0",
        "penstock:   package 11 of at most 104: torch",
        "penstock:   fetching torch, 187.3 MB",
        "penstock:   compiling the native module, which takes a minute or some",
        "penstock:   still compiling",
        "penstock:   installing 12 packages",
    ]
