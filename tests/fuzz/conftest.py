"""Lets the tests here import the harness beside them, which the fuzzer imports as a program."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
