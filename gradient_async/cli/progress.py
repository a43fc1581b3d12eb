"""How far a long run is: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

__all__ = ["Counts", "Progress", "make_progress"]

_EVERY = 5.0  # seconds between lines
_SHORT = 100  # seconds that are told as such


class Counts:
    """What has been done.

    Attributes:
        done: Requests that brought a completion.
        failed: Requests that brought an error.
        bad: Lines that are no request.
        skipped: Lines whose result was there already.
        changed: How many of these were others when their result was written.
        tokens: Tokens of prompts and completions.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = self.failed = self.bad = self.skipped = self.changed = self.tokens = 0
        self._clock = clock
        self._began = clock()

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return max(1e-9, self._clock() - self._began)

    @property
    def answered(self) -> int:
        """Requests that are over."""
        return self.done + self.failed

    @property
    def over(self) -> int:
        """Lines that are over."""
        return self.answered + self.bad + self.skipped

    def left(self, total: int) -> str:
        """Tell how long the rest will take at this rate; "" if nothing is known yet."""
        if not self.answered:
            return ""
        seconds = round(max(0, total - self.over) * self.seconds / self.answered)
        shown = f"{seconds} s" if seconds < _SHORT else str(timedelta(seconds=seconds))
        return f", {shown} left"

    def __str__(self) -> str:
        return (
            f"{self.answered / self.seconds:.1f} requests/s, {self.tokens / self.seconds:.0f} tokens/s, "
            f"{self.failed} errors"
        )

    def summary(self) -> str:
        """Sum up a run."""
        changed = f" ({self.changed} of them of lines that were others then)" if self.changed else ""
        return (
            f"{self.done} done, {self.failed} errors, {self.bad} bad lines, "
            f"{self.skipped} there already{changed}, {self.tokens} tokens, {self.seconds:.1f} s"
        )


class Progress(Protocol):
    """Shows how far a run is."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self) -> None:
        """Show what the counts say now."""
        ...

    def say(self, text: str) -> None:
        """Show a line that stays."""
        ...


class PlainProgress:
    """A line every few seconds.

    Args:
        counts: What has been done.
        total: How many lines there are, but for empty ones.
    """

    def __init__(self, counts: Counts, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts = counts
        self._total = total
        self._clock = clock
        self._next = clock() + _EVERY

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left to take away."""

    def update(self) -> None:
        """Show a line, if it is time."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + _EVERY
        counts = self._counts
        self.say(f"{counts.over} of {self._total}: {counts}{counts.left(self._total)}")

    def say(self, text: str) -> None:
        """Show a line."""
        print(text, file=sys.stderr, flush=True)


def make_progress(counts: Counts, total: int) -> Progress:
    """Make a bar if standard error is a terminal and rich is there, else lines.

    Args:
        counts: What has been done.
        total: How many lines there are, but for empty ones.
    """
    if sys.stderr is not None and sys.stderr.isatty():  # it is None where nobody may be told anything
        try:
            from .rich_progress import RichProgress  # noqa: PLC0415  # an extra
        except ImportError:
            pass
        else:
            return RichProgress(counts, total)
    return PlainProgress(counts, total)
