"""Connections to the service for peers that never come to a call."""

from __future__ import annotations

import threading
from collections import deque

from penstock.runtime.log import Log


class Strangers:
    """Counts connections that never came to a call: port scans, garbage, certificates that are not accepted.

    gRPC tells when a handshake begins, and of the calls of those whose handshake was good; it does not tell of one
    that failed. So a connection is a stranger's when no call came of it `within_s`. All methods on any thread.
    """

    def __init__(self, *, within_s: float, connections_max: int) -> None:
        self.within_s = within_s
        self._lock = threading.Lock()
        self._begun: deque[float] = deque(maxlen=connections_max)
        self._known: dict[str, None] = {}  # addresses of those that called, oldest first
        self._known_max = 2 * connections_max
        self._log = Log("peers")
        self.handshakes = 0
        self.refused = 0

    def handshake_begun(self, now: float) -> bool:
        """Whether it is the only one, so that `settle` is to be called when its time is over."""
        with self._lock:
            self.handshakes += 1
            if len(self._begun) == self._begun.maxlen:
                self.refused += 1  # it is over with the oldest: there are not so many connections
            self._begun.append(now)
            return len(self._begun) == 1

    def called(self, address: str) -> None:
        """From `address`, which stands for one connection while it lasts."""
        with self._lock:
            if address in self._known:
                return
            self._known[address] = None
            if len(self._known) > self._known_max:
                del self._known[next(iter(self._known))]
            if self._begun:
                self._begun.popleft()

    def settle(self, now: float) -> float | None:
        """Count those whose time is over; answer when the next one's is, if there is one."""
        with self._lock:
            found = 0
            while self._begun and self._begun[0] + self.within_s <= now:
                self._begun.popleft()
                found += 1
            self.refused += found
            due = self._begun[0] + self.within_s if self._begun else None
        if found:
            self._log.warning_once(
                "strangers_refused",
                connections=found,
                reason=f"no certificate of the cluster, or no call, within {self.within_s:g} s",
            )
        return due
