"""Draws ``docs/pictures/terminal.svg``: what ``gradient-async demo`` shows on a terminal, apart from its last lines."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from html import escape
from itertools import groupby
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "terminal.svg"
COLUMNS, ROWS = 92, 60
END = "6. "  # the first line that the picture leaves out, so that it fits on a screen
CELL_WIDTH, CELL_HEIGHT, EDGE = 7.2, 17, 14
TOKEN = re.compile(r"\x1b\[(?P<numbers>[0-9;?]*)(?P<command>[A-Za-z])|(?P<text>.)", re.DOTALL)
COLOURS = {
    "31": "#ff7b72",
    "32": "#7ee787",
    "33": "#e3b341",
    "34": "#79c0ff",
    "35": "#d2a8ff",
    "36": "#76e3ea",
}
STYLE = "\n".join(
    [
        ".terminal text { font: 12px ui-monospace, 'DejaVu Sans Mono', monospace; fill: #d1d7e0; white-space: pre }",
        ".terminal .b { font-weight: bold; fill: #ffffff }",
        ".terminal .d { fill: #8b949e }",
        *(f".terminal .c{code} {{ fill: {colour} }}" for code, colour in COLOURS.items()),
    ]
)


def record(*command: str) -> str:
    """Run a command on a pseudo-terminal; return what it wrote."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.environ.pop("NO_COLOR", None)
        os.execv(command[0], command)  # noqa: S606  # our own interpreter
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    written = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that the command has ended
            piece = b""
        if not piece:
            break
        written += piece
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit(written.decode())
    return written.decode()


class Screen:
    """A terminal that knows the few codes that the command line writes: colours, erase to the end, up."""

    def __init__(self) -> None:
        self.lines: list[list[tuple[str, str]]] = [[]]  # characters and their classes
        self.row = self.column = 0
        self.style: dict[str, None] = {}

    def write(self, text: str) -> None:
        """Show what a command wrote."""
        for found in TOKEN.finditer(text):
            if found["text"] is not None:
                self._put(found["text"])
            elif found["command"] == "m":
                self._set_style(found["numbers"])
            elif found["command"] == "A":
                self.row = max(0, self.row - int(found["numbers"] or 1))
            elif found["command"] == "K":
                del self.lines[self.row][0 if found["numbers"] == "2" else self.column :]

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
            return
        if character == "\n" or self.column == COLUMNS:
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append([])
            if character != "\n":
                self.column = 0
        if character != "\n":
            line = self.lines[self.row]
            line += [(" ", "")] * (self.column - len(line) + 1)
            line[self.column] = (character, " ".join(self.style))
            self.column += 1

    def _set_style(self, numbers: str) -> None:
        for number in numbers.split(";"):
            if number in {"", "0"}:
                self.style = {}
            elif number in {"1", "2"}:
                self.style["b" if number == "1" else "d"] = None
            elif number in COLOURS:
                self.style[f"c{number}"] = None


def draw(lines: list[list[tuple[str, str]]]) -> str:
    """Draw lines of a screen. The length of each run is given, so that columns meet in any font."""
    drawn: list[str] = []
    for row, line in enumerate(lines):
        column = 0
        for style, run in groupby(line, key=lambda cell: cell[1]):
            text = "".join(character for character, _ in run)
            if text.strip():
                x, length = EDGE + column * CELL_WIDTH, len(text) * CELL_WIDTH
                place = f'x="{x:g}" y="{2 * EDGE + 12 + row * CELL_HEIGHT}" textLength="{length:g}"'
                kind = f' class="{style}"' if style else ""
                drawn.append(f"<text{kind} {place}>{escape(text, quote=False)}</text>")
            column += len(text)
    width, height = 2 * EDGE + COLUMNS * CELL_WIDTH, 3 * EDGE + len(lines) * CELL_HEIGHT
    size = f'viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}"'
    head = f'<svg class="terminal" data-wide="" xmlns="http://www.w3.org/2000/svg" {size} role="img"'
    page = f'<rect width="{width:g}" height="{height}" rx="8" fill="#161b22" stroke="#30363d"/>'
    label = "gradient-async demo in a terminal"
    return "\n".join(
        [f'{head} aria-label="{label}">', f"<style>\n{STYLE}\n</style>", page, *drawn, "</svg>\n"]
    )


def main() -> None:
    """Run the demo, and write the picture."""
    screen = Screen()
    screen.write("$ gradient-async demo\r\n" + record(sys.executable, "-m", "gradient_async", "demo"))
    texts = ["".join(character for character, _ in line) for line in screen.lines]
    end = next(row for row, text in enumerate(texts) if text.startswith(END)) - 1
    PICTURE.write_text(draw(screen.lines[:end]), "utf-8")


if __name__ == "__main__":
    main()
