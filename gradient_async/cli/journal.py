"""The file of results: each line is there whole or not at all, and tells what need not be done again."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import msgspec

from .batch import BAD_LINE, Key

__all__ = ["Journal", "JournalError"]

_TAIL = 1 << 20


class JournalError(Exception):
    """The file can't be used; the message says why, and what to do."""


class _Failure(msgspec.Struct):
    """What a line says of an error."""

    type: str


class _Row(msgspec.Struct):
    """What a line of the file says of itself."""

    line: int
    custom_id: str | None
    response: msgspec.Raw
    error: _Failure | None
    digest: str = ""

    @property
    def key(self) -> Key:
        """The key of the line that it is the result of."""
        bad = self.error is not None and self.error.type == BAD_LINE
        return self.line if bad or self.custom_id is None else self.custom_id


_decode = msgspec.json.Decoder(_Row).decode


class Journal:
    """Results that were written, and those to come.

    Args:
        path: The file; made if it is not there.

    Attributes:
        done: Keys of the results in it, and the digests of the lines they are results of; "" is not known.
        errors: How many of them are errors.

    Raises:
        JournalError: If somebody else writes to it, if it holds anything else, or is no file that can be read
            again.
        OSError: If it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._check()
            self._lock()
            self._mend()
            self.done: dict[Key, str] = {}
            self.errors = 0
            for _, row in self._rows():
                self.done[row.key] = row.digest
                self.errors += row.error is not None
        except BaseException:
            os.close(self._file)
            raise

    def _check(self) -> None:
        """Refuse devices and pipes: they may give bytes without end, and keep nothing."""
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise JournalError(
                f"{self._path} is no file that a second run could read; name one for the results"
            )

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        import fcntl  # noqa: PLC0415  # not everywhere

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise JournalError(f"{self._path} is being written by another run; wait for its end") from None

    def _mend(self) -> None:
        """Complete or cut off a last line that was not written to its end."""
        tail = b""
        with self._path.open("rb") as file:
            size = start = file.seek(0, os.SEEK_END)
            while start > 0 and b"\n" not in tail:
                step = min(_TAIL, start)
                start = file.seek(start - step)
                tail = file.read(step) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not torn:
            return
        try:
            _decode(torn)
        except (msgspec.DecodeError, UnicodeDecodeError):
            os.ftruncate(self._file, size - len(torn))
        else:
            self.write(b"\n")

    def _rows(self) -> Any:
        """Give the file's lines, with what they say."""
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield line, _decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    raise JournalError(
                        f"{self._path}:{number} is no result of this command; choose another file for results"
                    ) from None

    def forget_errors(self) -> int:
        """Take the results that are errors out of the file; return how many there were.

        Raises:
            OSError: If the file can't be replaced; it is as it was then.
        """
        path = self._path.resolve()  # a link stays one
        fresh = path.with_name(path.name + ".tmp")
        forgotten, self.errors = self.errors, 0
        with fresh.open("wb") as file:
            shutil.copymode(path, fresh)  # before it holds anything that others may not read
            for line, row in self._rows():
                if row.error is not None:
                    self.done.pop(row.key, None)
                else:
                    file.write(line)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        old, self._file = self._file, os.open(path, os.O_RDWR | os.O_APPEND)
        self._lock()
        os.close(old)
        return forgotten

    def write(self, line: bytes) -> None:
        """Add a line, at once: what is written outlives the process.

        Raises:
            OSError: If there is no room for it; nothing of it is there then.
        """
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, os.fstat(self._file).st_size - (len(line) - len(rest)))
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def close(self) -> None:
        """Close the file, once it is on the disk."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)
