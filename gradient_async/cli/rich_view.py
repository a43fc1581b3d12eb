"""Answers side by side in a terminal, with the extra ``cli``."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any, Self

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from ..types import ChatCompletion, ChunkChoice, TokenLogprob
from .text import printable, tool_line

__all__ = ["RichView", "colour_of"]

_REFRESHES = 12  # a second
# Least probability for a colour, likeliest first.
_COLOURS = ((0.9, "green"), (0.6, "yellow"), (0.3, "dark_orange"), (0.0, "red"))


def colour_of(entry: TokenLogprob) -> str:
    """The colour of a token: green is likely, red is a surprise."""
    probability = math.exp(min(0.0, entry.logprob))
    return next(colour for least, colour in _COLOURS if probability >= least)


class RichView:
    """One choice as running text, several as panels that grow side by side.

    Args:
        n: How many choices are to be shown.
        console: Where; standard output if None.
    """

    def __init__(self, n: int, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._texts = {index: Text() for index in range(n)}
        self._live = Live(console=self._console, refresh_per_second=_REFRESHES, get_renderable=self._render)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def _render(self) -> Any:
        if len(self._texts) == 1:
            return next(iter(self._texts.values()))
        width = max(20, (self._console.width - 2) // min(len(self._texts), 4) - 1)
        return Columns(
            [Panel(text, title=f"choice {index}", width=width) for index, text in sorted(self._texts.items())]
        )

    def add(self, choice: ChunkChoice) -> None:
        """Show what a chunk adds to a choice."""
        text = self._texts.setdefault(choice.index, Text())
        delta = choice.delta
        if delta.reasoning_content:
            text.append(printable(delta.reasoning_content), style="dim italic")
        entries = None if choice.logprobs is None else choice.logprobs.content
        if entries:
            for entry in entries:
                text.append(printable(entry.token), style=colour_of(entry))
        elif delta.content:
            text.append(printable(delta.content))
        if delta.refusal:
            text.append(printable(delta.refusal), style="red")

    def finish(self, completion: ChatCompletion) -> None:
        """Show the tool calls."""
        for choice in completion.choices:
            for call in choice.message.tool_calls or ():
                text = self._texts.setdefault(choice.index, Text())
                text.append(f"\n→ {tool_line(call)}", style="cyan")
