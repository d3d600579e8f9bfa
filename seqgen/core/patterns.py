"""Regular expressions that somebody else wrote: their faults are named, and no line takes for ever."""

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from seqgen.core.errors import ConfigError

_SECONDS = 10.0
"""What a line may take; a sane expression takes microseconds."""


class Expression:
    """A compiled regular expression; `name` is what messages call it, such as `--match 'a+'`."""

    def __init__(self, pattern: str, name: str) -> None:
        self._name = name
        try:
            self._compiled = re.compile(pattern)
        except (re.error, OverflowError) as error:
            raise ConfigError(f"{name} is no regular expression: {error}") from None
        except RecursionError:
            raise ConfigError(f"{_short(name)} is no regular expression: its groups are nested too deeply") from None
        # only a repeated group can take exponential time, and the limit costs as much as a short search
        self._limited = re.search(r"\)[*+?{]", pattern) is not None

    def search(self, text: str) -> re.Match[str] | None:
        """Return the first match, or None; raise ConfigError where the search takes too long."""
        with self._limit():
            return self._compiled.search(text)

    def all(self, text: str) -> list[re.Match[str]]:
        """Return every match, from left to right; raise ConfigError where that takes too long."""
        with self._limit():
            return list(self._compiled.finditer(text))

    @contextlib.contextmanager
    def _limit(self) -> Iterator[None]:
        # a signal is the one thing that interrupts the search, and only the main thread gets one
        main = threading.current_thread() is threading.main_thread()
        if not self._limited or not main or sys.platform == "win32":
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            raise ConfigError(
                f"{_short(self._name)} took more than {_SECONDS:g} s on one line; "
                "a repetition inside a repetition, such as (a+)+, may take for ever"
            )

        old = signal.signal(signal.SIGALRM, stop)
        before = signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, *before)
            signal.signal(signal.SIGALRM, old)


def _short(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:97]}..."
