"""Answers as they stream: plain text for pipes, panels and colours for terminals that have them."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Protocol, Self

from ..types import ChatCompletion, ChunkChoice
from .text import percent, printable, say, tool_line, write

__all__ = ["PlainView", "View", "make_view", "on_terminal"]


def on_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stdout.isatty()


class View(Protocol):
    """Shows choices as they come."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def add(self, choice: ChunkChoice) -> None:
        """Show what a chunk adds to a choice."""
        ...

    def finish(self, completion: ChatCompletion) -> None:
        """Show what only the whole completion tells."""
        ...


def make_view(n: int, *, logprobs: bool) -> View:
    """Return the view that suits the output.

    Args:
        n: How many choices are to be shown.
        logprobs: Whether to show each token's probability.
    """
    if on_terminal():
        try:
            from .rich_view import RichView  # noqa: PLC0415  # an extra

            return RichView(n)
        except ImportError:
            pass
    return PlainView(n, logprobs=logprobs)


class PlainView:
    """Plain text: one choice as it comes; several one after the other, at the end.

    Args:
        n: How many choices are to be shown.
        logprobs: Whether to show each token's probability behind it.
    """

    def __init__(self, n: int, *, logprobs: bool) -> None:
        self._n = n
        self._logprobs = logprobs
        self._texts: dict[int, list[str]] = {}
        self._thinking = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._n > 1:
            for index in sorted(self._texts):
                say(f"-- choice {index}")
                say("".join(self._texts[index]))
        elif self._texts:
            say()

    def add(self, choice: ChunkChoice) -> None:
        """Show, or keep, what a chunk adds to a choice."""
        for piece in self._pieces(choice):
            self._texts.setdefault(choice.index, []).append(piece)
            if self._n == 1:
                write(piece)

    def _pieces(self, choice: ChunkChoice) -> list[str]:
        delta = choice.delta
        pieces: list[str] = []
        if delta.reasoning_content:
            pieces += ["" if self._thinking else "(thinking) ", printable(delta.reasoning_content)]
            self._thinking = True
        if (delta.content or delta.refusal) and self._thinking:
            pieces.append("\n")
            self._thinking = False
        entries = None if choice.logprobs is None else choice.logprobs.content
        if self._logprobs and entries:
            pieces += [f"{printable(entry.token)}[{percent(entry)}]" for entry in entries]
        elif delta.content:
            pieces.append(printable(delta.content))
        if delta.refusal:
            pieces.append(printable(delta.refusal))
        return pieces

    def finish(self, completion: ChatCompletion) -> None:
        """Keep the tool calls for the end."""
        for choice in completion.choices:
            for call in choice.message.tool_calls or ():
                line = f"-> {tool_line(call)}"
                if self._n > 1:
                    self._texts.setdefault(choice.index, []).append(f"\n{line}")
                else:
                    say(line)
