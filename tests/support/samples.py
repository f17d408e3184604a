"""Values read from a node's metrics, as text."""

from __future__ import annotations

import re


def sample(text: str, name: str, **labels: str) -> float:
    """One series of the exposition; 0 when it has never moved, and so is not there."""
    for line in text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name:
            given = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if given == labels:
                return float(found[3])
    return 0.0
