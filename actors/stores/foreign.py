"""What a foreign library raises: errors of any class, whose words may repeat an address, a password, a signature.

    heard = Foreign()
    with heard:
        return library.call()
    raise StoreFault(f"{name}: {heard.trouble}")

Told are classes and numbers, never words.
"""

from __future__ import annotations

import errno
from asyncio import CancelledError
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.runtime.errors import forget_traceback
from penstock.runtime.service import is_being_cancelled

NOBODYS = (KeyboardInterrupt, GeneratorExit)
"""What no library means when it raises it."""

STATUS_NAMES = ("status", "status_code", "code")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What may be told of a foreign error."""

    kind: str = ""  # its class, and that of its cause
    os_error: int = 0  # errno; 0: none
    status: int = 0  # of HTTP; 0: none
    is_absence: bool = False  # of what was asked for

    def __str__(self) -> str:
        os_error = errno.errorcode.get(self.os_error, f"errno {self.os_error}")
        status = f"HTTP {self.status}"
        return ", ".join(
            [self.kind, *[os_error] * bool(self.os_error), *[status] * bool(self.status)]
        )


def trouble_of(error: BaseException) -> Trouble:
    """Of an error of any library."""
    chain = [error, *filter(None, [error.__cause__])]
    return Trouble(
        kind=" from ".join(type(one).__name__ for one in chain),
        os_error=next((one.errno or 0 for one in chain if isinstance(one, OSError)), 0),
        status=next(filter(None, map(_status_of, chain)), 0),
        is_absence=isinstance(error, FileNotFoundError),
    )


class Foreign:
    """Hears whatever its body raises, but for what is `passed` on."""

    def __init__(self, *passed: type[BaseException]) -> None:
        self._passed = (*passed, *NOBODYS)
        self.trouble = Trouble()

    def lets_pass(self, error: BaseException) -> bool:
        return isinstance(error, self._passed)

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, _traceback: object) -> bool:
        if error is None or self.lets_pass(error):
            return False
        self.trouble = trouble_of(error)
        # Libraries keep what they raise, if only in a variable, and that would keep what its frames hold.
        forget_traceback(error)
        return True


class ForeignTask(Foreign):
    """The same of what is awaited. Being cancelled is passed on; a cancellation that is nobody's is one more error."""

    def lets_pass(self, error: BaseException) -> bool:
        is_ours = isinstance(error, CancelledError) and is_being_cancelled()
        return is_ours or super().lets_pass(error)


def _status_of(error: BaseException) -> int:
    """Of HTTP, as aiohttp, requests, botocore and the clients of clouds say it: in an attribute of the error, or of the
    response that it carries."""
    said = _attributes(error)
    response = said.get("response")
    if isinstance(response, Mapping):
        metadata = response.get("ResponseMetadata")
        status = metadata.get("HTTPStatusCode") if isinstance(metadata, Mapping) else None
        return _checked(status)
    for holder in (said, _attributes(response)):
        for name in STATUS_NAMES:
            if status := _checked(holder.get(name)):
                return status
    return 0


def _attributes(holder: object) -> Mapping[str, object]:
    """Of the instance alone: what is computed may do anything."""
    found = getattr(holder, "__dict__", None)
    return found if isinstance(found, Mapping) else {}


def _checked(status: object) -> int:
    return status if isinstance(status, int) and 100 <= status <= 599 else 0
