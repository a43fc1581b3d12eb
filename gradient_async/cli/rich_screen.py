"""Answers side by side, or a progress bar, in a terminal; needs the extra ``cli``."""

from __future__ import annotations

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

_REFRESHES = 12  # per second
_MAX_COLUMNS = 4
_MIN_WIDTH = 20  # characters of a panel
_STYLES = {"text": "", "reasoning": "dim italic", "refusal": "red", "call": "cyan"}
# Each colour with its minimum probability.
_COLOURS = ((0.9, "green"), (0.6, "yellow"), (0.3, "dark_orange"), (0.0, "red"))


def colour_of(probability: float) -> str:
    """Return the colour of a token: green for a likely one, red for a surprise."""
    return next(colour for min_, colour in _COLOURS if probability >= min_)


class RichScreen:
    """One answer as running text, or several in panels side by side; without panes, a progress bar."""

    def __init__(self, console: Console, panes: int = 0) -> None:
        self._console = console
        self._panes = {index: Text() for index in range(panes)}
        self._bar = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), console=console
        )
        self._task = self._bar.add_task("", text="")
        self._live = Live(console=console, refresh_per_second=_REFRESHES, get_renderable=self._render)
        self._live.start(refresh=True)

    def _render(self) -> RenderableType:
        if not self._panes:
            return self._bar
        if len(self._panes) == 1:
            return next(iter(self._panes.values()))
        width = max(_MIN_WIDTH, (self._console.width - 2) // min(len(self._panes), _MAX_COLUMNS) - 1)
        panes = sorted(self._panes.items())
        return Columns([Panel(text, title=f"choice {index}", width=width) for index, text in panes])

    def append(self, pane: int, text: str, kind: str = "text", probability: float | None = None) -> None:
        """Add text to a pane, coloured by its kind or, where it is known, by its probability."""
        style = _STYLES[kind] if probability is None else colour_of(probability)
        self._panes.setdefault(pane, Text()).append(f"\n→ {text}" if kind == "call" else text, style)

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def progress(self, done: int, total: int, text: str) -> None:
        """Update the bar and its text. The text has the time left; rich's own estimate would count earlier runs' lines."""
        self._bar.update(self._task, completed=done, total=total, text=text)

    def close(self) -> None:
        """Draw the last state, and leave it on the terminal."""
        self._live.stop()
