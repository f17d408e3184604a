"""`penstock serve`, its watchdog on the CPU time of the loop's thread: what other programs take is no step of ours."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

from penstock.actors.cli import main, serve

serve.time = SimpleNamespace(perf_counter=time.thread_time, monotonic=time.monotonic)  # type: ignore[attr-defined]
sys.exit(main.main())
