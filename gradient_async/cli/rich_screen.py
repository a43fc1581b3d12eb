"""Answers in a terminal, as running text or side by side, and a bar of progress; needs the extra ``cli``."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, TextIO

import msgspec
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..errors import escape

_REFRESHES = 12  # number of times that the screen is drawn in a second
_MAX_COLUMNS = 4
_MIN_WIDTH = 20  # minimum width of a panel, in characters
_FRAME = 4  # characters of a panel's frame in each line; a frame also has two lines of its own
_MIN_LINES = 2  # minimum lines of text in a panel: the number of lines above, and the last line
_MAX_BAR = 40  # maximum characters of the progress bar
_MIN_BAR = 8
_STYLES = {"text": "", "reasoning": "dim italic", "refusal": "red", "call": "cyan"}
# Each colour with its minimum probability.
_COLOURS = ((0.9, "green"), (0.6, "yellow"), (0.3, "dark_orange"), (0.0, "red"))

# Formatting Markdown takes time that grows with the text, and the last block is drawn at each refresh. If the last block has
# more than _MAX_LIVE characters, its end is shown without formatting until the block is whole. If it has more than _MAX_BLOCK
# characters, the rest of the answer is shown without formatting.
_MAX_LIVE = 4 * 1024
_MAX_BLOCK = 64 * 1024
_CODE_THEME = "ansi_dark"  # the terminal's own colours, on its own background


def colour_of(probability: float) -> str:
    """Return the colour of a token, from green for a probable token to red for an improbable one."""
    return next(colour for min_, colour in _COLOURS if probability >= min_)


def has_colours(console: Console) -> bool:
    """Whether a console may use colours: the terminal has colours, and ``NO_COLOR`` is not set."""
    return not console.no_color and console.color_system is not None


class Pane:
    """Text that grows and is drawn many times. Only its last lines are wrapped again each time.

    One thread may append while another thread draws.
    """

    def __init__(self) -> None:
        self.text = Text()
        self._last = Text()  # the last lines of the text, which may still be wrapped in another way
        self._above = 0  # number of lines above `_last`
        self._shape = (0, 0)
        self._lock = threading.Lock()

    def append(self, text: str, style: str = "") -> None:
        """Add text to the end."""
        with self._lock:
            self.text.append(text, style)
            self._last.append(text, style)

    def tail(self, console: Console, width: int, height: int) -> Text:
        """Return the last lines. If not all lines fit, the first line of the result has the number of lines above."""
        with self._lock:
            if self._shape != (width, height):
                self._last, self._above, self._shape = self.text.copy(), 0, (width, height)
            lines = self._last.wrap(console, width)
            over = max(0, len(lines) - height)
            # More text can change only the last line, so the lines above are never wrapped again. Wrapping drops spaces at the
            # end of a line, but the last line needs them before its next word.
            spaces = _spaces(self._last) - _spaces(lines[-1])
            self._last = Text("\n").join(lines[over:]).append(" " * spaces)
            self._above += over
            if self._above:
                lines[over] = Text(f"… {self._above + 1} lines above", "dim")
            return Text("\n").join(lines[over:])


def _spaces(text: Text) -> int:
    """Return the number of spaces at the end of a text."""
    return len(text.plain) - len(text.plain.rstrip(" "))


class Block:
    """Draws Markdown without blank lines at its start and end. If it has more than ``height`` lines, draws the last lines."""

    def __init__(self, text: str, height: int | None = None) -> None:
        # The text of a link may name another address than its target, so the target is shown.
        self._markdown = Markdown(text, code_theme=_CODE_THEME, hyperlinks=False)
        _escape(self._markdown.parsed)
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines, as rich requires."""
        lines = [
            _trim(line)
            for line in console.render_lines(self._markdown, options.update(height=None), pad=False)
        ]
        while lines and not lines[-1]:
            lines.pop()
        while lines and not lines[0]:
            del lines[0]
        if self._height is not None and len(lines) > self._height:
            over = len(lines) - self._height + 1
            del lines[:over]
            yield Text(f"… {over} lines above", "dim")
        for line in lines:
            yield from line
            yield Segment.line()


def _trim(line: list[Segment]) -> list[Segment]:
    """Remove the spaces with which rich fills a line. They would show if the text is copied or the terminal made narrower."""
    while line and not line[-1].text.rstrip():
        line.pop()
    return [*line[:-1], *(segment._replace(text=segment.text.rstrip()) for segment in line[-1:])]


def _escape(tokens: list[Token]) -> None:
    """Escape control characters, in place. A `Display` has escaped the text, but Markdown can write any character as a number."""
    for token in tokens:
        token.content = re.sub(r"[^\n\t]+", lambda match: escape(match[0], len(match[0])), token.content)
        _escape(token.children or [])


def last_block(text: str) -> int:
    """Return the position of the last block of Markdown, such as a paragraph, a list, a table or a block of code.

    Further text changes only the last block.
    """
    blocks = [token for token in MarkdownIt().enable("table").parse(text) if not token.level and token.map]
    if not blocks or not blocks[-1].map:
        return 0
    return sum(len(line) + 1 for line in text.split("\n")[: blocks[-1].map[0]])


class AnswerScreen:
    """One answer as running text. A block of Markdown is formatted when it ends; the last block is drawn while it grows.

    Args:
        console: The terminal.
        value: Whether a value replaces the answer at the end. Before that, the last lines of the text are shown.
    """

    def __init__(self, console: Console, *, value: bool = False) -> None:
        self.colours = has_colours(console)
        self._console = console
        self._value = value
        self._block: list[str] = []  # the Markdown of the last block
        self._size = 0
        self._looked = 0  # the size of the Markdown when it was last parsed, in characters
        self._pane = Pane()  # the same text, to show it without formatting
        self._live: Live | None = None
        self._ended = False  # whether the last block is whole, so that all its lines are drawn
        self._formats = not value
        self._mid_line = False

    def append(self, pane: int, text: str, kind: str = "text", probability: float | None = None) -> None:
        """Add text to the answer."""
        del pane  # is not needed, because there is only one pane
        if kind == "text" and probability is None and (self._formats or self._value):
            self._append_block(text)
            return
        self._end_block()
        if kind == "call":
            text = "\n" * self._mid_line + f"→ {text}\n"
        style = _STYLES[kind] if probability is None else colour_of(probability)
        self._print(text, style)

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style), end="", soft_wrap=True)
        self._mid_line = not text.endswith("\n")

    def _append_block(self, text: str) -> None:
        if self._live is None:
            if self._mid_line:
                self._console.print("\n")
                self._mid_line = False
            self._ended = False
            self._live = _live(self._console, self._draw)
        self._block.append(text)
        self._pane.append(text)
        self._size += len(text)
        if self._formats and self._size > _MAX_BLOCK:
            self._stop_formatting()
        # The Markdown is parsed again only after it has grown by a quarter, so that the total time grows with the length of the
        # text, and not with its square.
        elif self._formats and "\n" in text and self._size >= 1.25 * self._looked:
            self._looked = self._size
            self._print_blocks()

    def _print_blocks(self) -> None:
        """Print all blocks except the last block."""
        text = "".join(self._block)
        # The last line is left out, because more text may turn it into a block of another kind.
        start = last_block(text[: text.rfind("\n") + 1])
        if start:
            self._keep(text[start:])
            self._console.print(Block(text[:start]))
            self._console.print()

    def _stop_formatting(self) -> None:
        """Show the last block, and all later text, without formatting."""
        text = "".join(self._block)
        self._keep("")
        self._end_block()
        self._formats = False
        self._print(text)

    def _keep(self, text: str) -> None:
        self._pane = pane = Pane()
        pane.append(text)
        self._block, self._size, self._looked = [text], len(text), 0

    def _draw(self) -> RenderableType:
        text, height = "".join(self._block), self._console.height - 1
        if self._ended:
            return Block(text) if self._formats else Text(text)
        if self._formats and len(text) <= _MAX_LIVE:
            return Block(text, height)
        return self._pane.tail(self._console, self._console.width, height)

    def _end_block(self) -> None:
        if self._live is not None:
            self._ended = True
            self._live.transient = not self._size  # an empty block must not leave a blank line
            self._live.stop()
            self._live = None
            self._keep("")

    def show_value(self, pane: int, value: Any) -> None:
        """Show a value in the place of the text."""
        del pane
        text = _pretty(value)
        self._append_block(text)
        self._block = [text]
        self._end_block()

    def close(self) -> None:
        """Draw the whole answer, and leave it on the terminal."""
        self._end_block()
        if self._mid_line:
            self._console.print()


def _pretty(value: Any) -> str:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return "\n".join(escape(line, len(line)) for line in text.split("\n"))


def _live(console: Console, draw: Callable[[], RenderableType]) -> Live:
    # rich must not replace standard output, because `input` edits lines only on the original one.
    live = Live(
        console=console,
        refresh_per_second=_REFRESHES,
        redirect_stdout=False,
        redirect_stderr=console.stderr,
        get_renderable=draw,
    )
    live.start(refresh=True)
    return live


class PanelScreen:
    """Several answers in panels side by side. While they grow, each panel shows the last lines of its answer."""

    def __init__(self, console: Console, panes: int) -> None:
        self.colours = has_colours(console)
        self._console = console
        self._panes = {index: Pane() for index in range(panes)}
        self._ended = False
        self._live = _live(console, self._draw)

    def append(self, pane: int, text: str, kind: str = "text", probability: float | None = None) -> None:
        """Add text to a pane. Its probability decides the colour; without a probability, its kind does."""
        style = _STYLES[kind] if probability is None else colour_of(probability)
        self._pane(pane).append(f"\n→ {text}" if kind == "call" else text, style)

    def _pane(self, index: int) -> Pane:
        return self._panes.get(index) or self._panes.setdefault(index, Pane())

    def show_value(self, pane: int, value: Any) -> None:
        """Show a value in the place of a pane's text."""
        self._panes[pane] = Pane()
        self._panes[pane].append(_pretty(value))

    def _draw(self) -> RenderableType:
        panes = sorted(self._panes.copy().items())
        screen_width, screen_height = self._console.size
        columns = max(1, min(len(panes), _MAX_COLUMNS, screen_width // _MIN_WIDTH))
        rows = -(-len(panes) // columns)
        columns = -(-len(panes) // rows)  # each row has as many panels as fit
        width = screen_width // columns
        shown_rows = rows if self._ended else max(1, min(rows, (screen_height - 2) // (_MIN_LINES + 2)))
        height = max(_MIN_LINES, (screen_height - 2) // shown_rows - 2)
        grid = Table.grid()
        for row in range(shown_rows):
            grid.add_row(
                *(
                    Panel(
                        pane.text if self._ended else pane.tail(self._console, width - _FRAME, height),
                        title=f"choice {index}",
                        width=width,
                    )
                    for index, pane in panes[row * columns : (row + 1) * columns]
                )
            )
        if hidden := len(panes[shown_rows * columns :]):
            grid.add_row(Text(f"… {hidden} more", "dim"))
        return grid

    def close(self) -> None:
        """Draw all whole answers, and leave them on the terminal."""
        self._ended = True
        self._live.stop()


class BarScreen:
    """A bar of progress, with lines above it that stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._state = (0, 0, "")
        self._live = _live(console, self._draw)

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def progress(self, done: int, total: int, text: str) -> None:
        """Update the bar and its text."""
        self._state = (done, total, text)

    def _draw(self) -> RenderableType:
        done, total, text = self._state
        label = f"{done}/{total} {text}"
        room = min(_MAX_BAR, self._console.width - len(label) - 1)
        if room < _MIN_BAR:  # if there is no room for both, the counts are more useful than the bar
            return Text(label)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(total=total, completed=done, width=room), Text(label))
        return grid

    def close(self) -> None:
        """Draw the bar for the last time, and leave it on the terminal."""
        self._live.stop()


def open_answers(stream: TextIO | None, panes: int, *, values: bool) -> AnswerScreen | PanelScreen:
    """Return a screen for ``panes`` answers."""
    console = Console(file=stream, highlight=False)
    return PanelScreen(console, panes) if panes > 1 else AnswerScreen(console, value=values)


def open_bar(stream: TextIO | None) -> BarScreen:
    """Return a screen for progress."""
    return BarScreen(Console(file=stream, stderr=True, highlight=False))
