"""A program in a pseudo-terminal, and what it draws there."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pyte

PATIENCE = 60.0  # seconds until something is taken to never happen
# The terminal becomes that of a session of its own, so that Ctrl-C reaches the program alone.
_LOGIN = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """Runs the command line in a terminal of this size.

    Args:
        arguments: Arguments of the command line.
        columns: Width.
        lines: Height.
        environment: Changes of the environment.
        piped: Text that is piped into the program, in place of the keyboard.
    """

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        lines: int = 24,
        environment: dict[str, str] | None = None,
        piped: str | None = None,
    ) -> None:
        self._screen: Any = pyte.HistoryScreen(columns, lines, history=100_000, ratio=0.5)
        self._stream: Any = pyte.ByteStream(self._screen)
        self.raw = b""
        self._control, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        command = [sys.executable, "-c", _LOGIN, sys.executable, "-m", "gradient_async", *arguments]
        if piped is not None:
            command[3:3] = ["/bin/bash", "-c", 'printf %s "$0" | "$@"', piped]
        self._process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **(environment or {})},
        )
        os.close(terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._control)

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._control)[3] & termios.ECHO)

    @property
    def screen(self) -> str:
        """What the screen shows."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def shown(self) -> str:
        """Everything that was drawn and is not erased: what has left the screen at its top, and the screen."""
        above = [
            "".join(line[x].data for x in range(self._screen.columns)).rstrip()
            for line in self._screen.history.top
        ]
        return "\n".join([*above, self.screen]).rstrip()

    def write(self, text: str) -> None:
        """Type text."""
        os.write(self._control, text.encode())

    def read(self, seconds: float = 0.05) -> bool:
        """Draw what comes within this time; return False at the end of the output."""
        if not select.select([self._control], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._control, 65536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # the program has ended
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def read_for(self, seconds: float) -> None:
        """Draw what comes within this time."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self.read(min(left, 0.05))

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until a text is drawn so many times."""
        self.wait_until(lambda: self.shown.count(text) >= count, repr(text))

    def wait_for_prompt(self, *, again: str = "") -> None:
        """Wait until the program waits for a line; if that takes long, type ``again`` once.

        Python does not notice a Ctrl-C that comes while `input` is about to wait for a key, until the next key.
        """
        slow = time.monotonic() + PATIENCE / 4
        while again and not self._prompts:
            self.read()
            if time.monotonic() > slow:
                self.write(again)
                again = ""
        self.wait_until(lambda: self._prompts, "a prompt")

    @property
    def _prompts(self) -> bool:
        return self._line.endswith(">") and len(self._line) + 1 == self._screen.cursor.x

    @property
    def _line(self) -> str:
        """The line of the cursor."""
        line: str = self._screen.display[self._screen.cursor.y]
        return line.rstrip()

    def wait_until(self, fact: Callable[[], bool], name: str = "it") -> None:
        """Wait until something is a fact."""
        ends = time.monotonic() + PATIENCE
        while not fact():
            assert self.read() or fact(), f"the program has ended without {name}:\n{self.shown}"
            assert time.monotonic() < ends, f"{name} never comes:\n{self.shown}"

    def end(self, *, interrupt: bool = False) -> int:
        """Wait until the program has ended; return its exit status. If it takes long, interrupt it by Ctrl-C."""
        begun = time.monotonic()
        while self.read():
            waited = time.monotonic() - begun
            if interrupt and waited > PATIENCE / 4:
                self.write("\x03")
                interrupt = False
            assert waited < PATIENCE, f"the program does not end:\n{self.shown}"
        return self._process.wait(PATIENCE)
