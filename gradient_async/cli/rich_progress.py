"""A progress bar in a terminal, with the extra ``cli``."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .progress import Counts
from .text import printable

__all__ = ["RichProgress"]


class RichProgress:
    """A bar with rate, tokens, errors, and the time left.

    Args:
        counts: What has been done.
        total: How many lines there are, but for empty ones.
        console: Where; standard error if None.
    """

    def __init__(self, counts: Counts, total: int, console: Console | None = None) -> None:
        self._counts = counts
        self._total = total
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            console=console or Console(stderr=True, highlight=False),
        )
        self._task = self._progress.add_task("", total=total, counts="")

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.update()
        self._progress.__exit__(kind, error, trace)

    def update(self) -> None:
        """Move the bar."""
        counts = self._counts
        # Not the bar's own guess of the time left: lines whose results are there cost nothing.
        text = f"{counts}{counts.left(self._total)}"
        self._progress.update(self._task, completed=counts.over, counts=text)

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
