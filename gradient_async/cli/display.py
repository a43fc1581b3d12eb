"""Output for people: text that is safe to print, and answers and progress as plain text or with rich."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import math
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, Literal, Protocol, TextIO, TypeAlias, TypeVar

import msgspec

from ..errors import escape
from ..types import ChatCompletion, ChunkChoice, TokenLogprob, ToolCall

# Windows has no termios, and needs none: its console shows nothing that is typed while no program reads it.
termios: Any = importlib.import_module("termios") if importlib.util.find_spec("termios") else None

Kind: TypeAlias = Literal["text", "reasoning", "refusal", "call"]
S = TypeVar("S", bound="Screen | ProgressScreen")

_INTERVAL = 5.0  # seconds between two lines of progress
# Characters that are escaped and written together. A long text is never copied as a whole: with one emoji in it, each of its
# characters takes four bytes of memory.
_PIECE = 64 * 1024

# Control characters except tab and line feed, the marks that change the direction of text, and half surrogate pairs. A
# terminal obeys them: a model could move the cursor, clear the screen, or make a line read differently from what it
# contains.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Replace each control character by its escape sequence in Python, as `repr` does."""
    return _CONTROLS.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Escape control characters, tabs and line feeds, so that text of a server cannot look like a line of this program."""
    return escape(text, len(text))


# All output of the command line goes through these functions, which escape control characters.


def write(text: str) -> None:
    """Write to standard output at once."""
    _emit(text, escaped=printable)


def say(line: str = "") -> None:
    """Write a line to standard output."""
    _emit(line, "\n", escaped=printable)


def say_bold(line: str) -> None:
    """Write a line to a terminal in bold."""
    _say_styled(line, 1)


def say_dim(line: str) -> None:
    """Write a line to a terminal in faint letters; break a long line between words."""
    _say_styled(textwrap.fill(line, shutil.get_terminal_size().columns), 2)


def _say_styled(line: str, style: int) -> None:
    shown = printable(line)
    _emit(shown if is_dumb() else f"\033[{style}m{shown}\033[0m", "\n", escaped=str)


def show_cursor() -> None:
    """Show the cursor of the terminal again. At Ctrl-C a terminal may drop the text that showed the cursor before."""
    if on_terminal(sys.stdout) and not is_dumb():
        _emit("\033[?25h", escaped=str)


def say_json(value: Any) -> None:
    """Write a value as one line of JSON to standard output."""
    _emit(msgspec.json.encode(value).decode(), "\n", escaped=_escape_json)


def json_line(value: Any) -> str:
    """Return a value as one line of JSON, with escapes for all control characters. JSON itself allows most of them."""
    return _escape_json(msgspec.json.encode(value).decode())


def _escape_json(line: str) -> str:
    return _CONTROLS.sub(lambda match: f"\\u{ord(match.group()):04x}", line)


def note(line: str) -> None:
    """Write a line to standard error, unless standard error was closed before the program began."""
    if sys.stderr is not None:
        print(one_line(line), file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """Write an error message to standard error."""
    note(f"gradient-async: {message}")


def _emit(*texts: str, escaped: Callable[[str], str]) -> None:
    """Write to standard output, and replace characters that its encoding does not have by question marks.

    Raises:
        OSError: If standard output can't be written, or was closed before the program began.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")
    encoding = sys.stdout.encoding or "utf-8"
    for text in texts:
        for start in range(0, len(text), _PIECE):
            piece = escaped(text[start : start + _PIECE])
            sys.stdout.write(piece.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def on_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal. A standard stream is None if it was closed before the program began."""
    return stream is not None and stream.isatty()


def is_dumb() -> bool:
    """Whether the terminal only prints: it has no colours, and its cursor can't be moved."""
    return os.environ.get("TERM") in {"dumb", "unknown"}


def tool_line(call: ToolCall) -> str:
    """Return a tool call as one escaped line."""
    name = f"{call.function.name}({call.function.arguments})"
    return one_line(f"{name}  [{call.id}]" if call.id else name)


def probability_of(entry: TokenLogprob) -> float:
    """Return a token's probability. A log probability slightly above 0, which comes from rounding, counts as 0."""
    return math.exp(min(0.0, entry.logprob))


class Screen(Protocol):
    """Draws the answers of a `Display`. `PlainScreen` writes plain text; `rich_screen` has screens that use rich."""

    colours: bool  # whether probabilities are shown as colours

    def append(self, pane: int, text: str, kind: Kind = "text", probability: float | None = None) -> None:
        """Add text to the end of a pane. There is one pane for each choice, with the choice's index."""
        ...

    def show_value(self, pane: int, value: Any) -> None:
        """Show the value that was decoded from the text of a pane."""
        ...

    def close(self) -> None:
        """Show the text that was kept for the end, and restore the terminal."""
        ...


class PlainScreen:
    """Writes one answer as it arrives, or several one after the other at the end.

    Args:
        panes: Number of answers.
        values: Whether the answers are values. Then each value is written as one line of JSON, and no text.
    """

    colours = False

    def __init__(self, panes: int = 1, *, values: bool = False) -> None:
        self._several = panes > 1
        self._values = values
        self._panes: dict[int, list[str]] = {}
        self._last_kinds: dict[int, Kind] = {}

    def append(self, pane: int, text: str, kind: Kind = "text", probability: float | None = None) -> None:
        """Write the text, or keep it until the end. Labels replace the styles of a terminal."""
        del probability
        if self._values:
            return
        if kind == "call" and not self._several:
            say(f"-> {text}")
            return
        last = self._last_kinds.get(pane)
        self._last_kinds[pane] = kind
        if kind == "call":
            text = f"\n-> {text}"
        elif kind == "reasoning":
            text = text if last == "reasoning" else f"(thinking) {text}"
        elif last == "reasoning":
            text = f"\n{text}"
        texts = self._panes.setdefault(pane, [])
        if self._several:
            texts.append(text)
        else:
            write(text)

    def show_value(self, pane: int, value: Any) -> None:
        """Write the value."""
        del pane  # callers show values in the order of the choices
        say_json(value)

    def close(self) -> None:
        """Write the answers that were kept, or end the line of the only answer."""
        if self._several:
            for index, texts in sorted(self._panes.items()):
                say(f"-- choice {index}")
                say("".join(texts))
        elif self._panes:
            say()


class Display:
    """Shows the choices of a completion on a screen, and escapes control characters."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def add(self, choice: ChunkChoice, *, logprobs: bool) -> None:
        """Show the new text of a choice in a chunk. With ``logprobs``, show each token with its probability."""
        delta, pane = choice.delta, choice.index
        if delta.reasoning_content:
            self._screen.append(pane, printable(delta.reasoning_content), "reasoning")
        entries = None if choice.logprobs is None else choice.logprobs.content
        if logprobs and entries:
            # Some servers also send log probabilities of the tokens of the reasoning.
            kind: Kind = "reasoning" if delta.reasoning_content and not delta.content else "text"
            for entry in entries:
                probability = probability_of(entry)
                label = "" if self._screen.colours else f"[{100 * probability:.0f}%]"
                self._screen.append(pane, printable(entry.token) + label, kind, probability)
        elif delta.content:
            self._screen.append(pane, printable(delta.content))
        if delta.refusal:
            self._screen.append(pane, printable(delta.refusal), "refusal")

    def add_calls(self, completion: ChatCompletion) -> None:
        """Show the tool calls of the whole completion. Their fragments in chunks would be hard to read."""
        for choice in completion.choices:
            for call in choice.message.tool_calls or ():
                self._screen.append(choice.index, tool_line(call), "call")

    def show_value(self, index: int, value: Any) -> None:
        """Show the value that was decoded from the text of a choice, as JSON."""
        self._screen.show_value(index, value)


@contextmanager
def handling(number: signal.Signals, handle: Callable[[], object]) -> Generator[None, None, None]:
    """Call a function at each such signal in the block; do nothing in threads that cannot have signal handlers.

    Afterwards the earlier handler is in place again. `asyncio.loop.remove_signal_handler` would install Python's default
    handler instead, which raises KeyboardInterrupt at any place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda _number, _frame: handle())
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def uninterrupted() -> Generator[None, None, None]:
    """Delay Ctrl-C until the end of the block, so that a second Ctrl-C cannot interrupt the restoring of the terminal."""
    came: list[None] = []
    try:
        with handling(signal.SIGINT, lambda: came.append(None)):
            yield
    finally:
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _opened(stream: TextIO | None, open_one: Callable[[], S]) -> Generator[S, None, None]:
    """Open a screen on a stream, and close it however the block ends."""
    stack = ExitStack()
    try:
        with uninterrupted():
            stack.enter_context(_hushed(stream))
            screen = stack.enter_context(closing(open_one()))
        yield screen
    finally:
        with uninterrupted():
            stack.close()


@contextmanager
def _hushed(stream: TextIO | None) -> Generator[None, None, None]:
    """Let a terminal neither show what is typed, nor drop output at Ctrl-C.

    A screen is drawn again from the place of the cursor, which either would move.
    """
    mode: list[Any] = []
    if termios is not None and stream is not None:
        with suppress(OSError, termios.error):  # the stream may be a file
            mode = termios.tcgetattr(stream.fileno())
            _set_mode(stream, [*mode[:3], mode[3] & ~termios.ECHO | termios.NOFLSH, *mode[4:]])
    try:
        yield
    finally:
        if mode:
            _set_mode(stream, mode)


def _set_mode(stream: Any, mode: list[Any]) -> None:
    """Set the mode of a terminal, if this process is in its foreground: another would be stopped by the attempt."""
    with suppress(OSError, termios.error):  # the terminal may be gone, or belong to another session
        if os.tcgetpgrp(stream.fileno()) == os.getpgrp():
            termios.tcsetattr(stream.fileno(), termios.TCSADRAIN, mode)


@contextmanager
def open_display(
    stream: TextIO | None, panes: int = 1, *, values: bool = False
) -> Generator[Display, None, None]:
    """Open a display with ``panes`` choices on standard output; ``values`` says whether the choices are values."""
    with _opened(stream, lambda: open_screen(stream, panes, values=values)) as screen:
        yield Display(screen)


def open_screen(stream: TextIO | None, panes: int, *, values: bool = False) -> Screen:
    """Return a rich screen if the stream is a terminal and rich is installed, else a plain one."""
    if on_terminal(stream) and not is_dumb():
        try:
            from .rich_screen import open_answers  # noqa: PLC0415  # the module imports rich, an optional extra
        except ImportError:
            pass
        else:
            return open_answers(stream, panes, values=values)
    return PlainScreen(panes, values=values)


# Progress


class ProgressScreen(Protocol):
    """Draws the progress of a run on standard error."""

    def say(self, line: str) -> None:
        """Show a line that stays."""
        ...

    def progress(self, done: int, total: int, text: str) -> None:
        """Show that ``done`` of ``total`` steps are done, with text beside it."""
        ...

    def close(self) -> None:
        """Restore the terminal."""
        ...


class PlainProgress:
    """Writes a line of progress every 5 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_line = clock() + _INTERVAL

    def say(self, line: str) -> None:
        """Write the line at once."""
        note(line)

    def progress(self, done: int, total: int, text: str) -> None:
        """Write a line of progress, unless the last one is less than 5 s old."""
        now = self._clock()
        if now >= self._next_line:
            self._next_line = now + _INTERVAL
            self.say(f"{done} of {total}: {text}")

    def close(self) -> None:
        """Do nothing: each line has been written at once."""


class Progress:
    """Shows the progress of a run on a screen, and escapes control characters."""

    def __init__(self, screen: ProgressScreen) -> None:
        self._screen = screen

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self._screen.say(one_line(line))

    def progress(self, done: int, total: int, text: str) -> None:
        """Show that ``done`` of ``total`` steps are done, with text beside it."""
        self._screen.progress(done, total, printable(text))


@contextmanager
def open_progress(stream: TextIO | None) -> Generator[Progress, None, None]:
    """Open a display of progress: a bar if the stream is a terminal and rich is installed, else lines."""
    with _opened(stream, lambda: _open_progress_screen(stream)) as screen:
        yield Progress(screen)


def _open_progress_screen(stream: TextIO | None) -> ProgressScreen:
    if on_terminal(stream) and not is_dumb():
        try:
            from .rich_screen import open_bar  # noqa: PLC0415  # the module imports rich, an optional extra
        except ImportError:
            pass
        else:
            return open_bar(stream)
    return PlainProgress()
