"""The journal of `map`: a file of results, with which a later run continues where an earlier run stopped.

- While requests are sent, the file only grows. A worker appends its result in one write before it takes its next request.
  So if the process is killed, only the requests in flight and one incomplete line are lost.
- A row is identified by the digest of its key and its parameters. `Journal` reads the file once, and keeps the position of
  the result of each digest. A completion is read when its row is reached, so a result takes about 150 bytes of memory.
- Rows may be equal, for example several samples of one prompt. The n-th of equal rows has the n-th of their results.
- The process that writes the file locks it. While requests are sent, nothing is removed except an incomplete last line.
- A result is superseded if it is an error whose request was made again, or if its row has changed: a row of this run has
  the same key, and no row has the same digest. When a run has read all its requests, `Journal.tidy` replaces the file by a
  copy without superseded results. Superseded completions go to the file ``<path>.superseded``, because they are paid for,
  and the change may be a mistake.
- Before that, and after a kill, the last result of a key counts. The next run that reaches its end removes the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from ..errors import GradientError, JournalError
from ..types import ChatCompletion
from .result_file import (
    DECODE_ERRORS,
    LIVE,
    OTHER,
    SUPERSEDED,
    Name,
    Result,
    ResultFile,
    Row,
    decode_result,
    encode_result,
    is_torn,
    renumbered,
)

if sys.platform == "win32":

    def _lock(file: int) -> None:
        """Do nothing: Windows has no `fcntl` locks."""

    def _copy_rights(source: int, target: int) -> None:
        """Do nothing: on Windows a new file inherits the permissions of its folder."""

else:
    import fcntl

    def _lock(file: int) -> None:
        """Keep other processes from locking an open file; raise `BlockingIOError` if one has locked it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _copy_rights(source: int, target: int) -> None:
        """Copy the permissions of an open file to another open file."""
        os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode))


class Journal(ResultFile):
    """A file of results for ``map(requests, journal=...)``. Requests with a result in the file are not paid for again.

    ``map`` also takes the path of a file, and opens and closes it by itself. Open a `Journal` for several calls of `map` that
    use one file, for the option ``retry_errors``, or to read a large file in another thread:
    ``await asyncio.to_thread(Journal, path)``. Close the journal, or use ``with``: this removes superseded results, and waits
    until the file is on the disk.

    Args:
        path: The file. A new file can be read by this user alone.
        retry_errors: Whether to make the requests of all errors again, also of requests that the server refused with 400, 404,
            413 or 422.

    Attributes:
        path: The file.
        errors: Number of errors among the results in the file when it was opened.

    Raises:
        JournalError: If another process writes to the file, if the file contains anything except results, if it is not a
            regular file, or if it can't be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, retry_errors: bool = False) -> None:
        super().__init__(Path(path), -1, retry_errors=retry_errors)
        self._torn = False  # whether the file may end with a part of a line
        self._unfinished = 0  # number of runs that have not read all their requests
        self._by_line = False  # whether the number of a line identifies a row without custom_id
        self._moved: dict[int, int] = {}  # new numbers of rows, by the positions of their results
        self._file = self._open(self.path)
        try:
            self._load()
        except BaseException:
            os.close(self._release())
            raise

    def _open(self, path: Path, flags: int = 0) -> int:
        """Open or create a file for reading and appending.

        Symbolic links are refused: another user with access to the folder could make a link of this name, to have this program
        overwrite another file of its user.
        """
        flags |= (
            os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        )
        try:
            return os.open(path, flags, 0o600)
        except OSError as error:
            failure = self._failure(error)
            if error.errno == errno.ELOOP:
                failure = self._error(f"{path} is a symbolic link; name the file itself")
        raise failure

    def _load(self) -> None:
        # Only a regular file can be used: a device may deliver bytes without end, and a pipe keeps nothing for the next run.
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise self._error(
                f"{self.path} is not a regular file, so a later run could not read it; name another file"
            )
        failure: OSError | None = None
        try:
            _lock(self._file)
            # If another run has replaced the file just now, this lock is on the old file, which no longer has this path.
            replaced = not os.path.samestat(os.fstat(self._file), self.path.lstat())
        except (BlockingIOError, FileNotFoundError):
            replaced = True
        except OSError as error:
            failure, replaced = error, False
        if replaced:
            raise self._error(f"another run is writing to {self.path}; wait until it ends")
        if failure is not None:
            raise self._failure(failure)
        if rest := self.read_on():
            self._repair(rest)

    def _repair(self, line: bytes) -> None:
        """Complete or remove a last line that has no line feed."""
        number = len(self._starts) + 1
        try:
            result = decode_result(line)
        except DECODE_ERRORS as error:
            # A line of whole JSON that is not a result was not cut off, so another program has written it.
            if not is_torn(line) or isinstance(error, msgspec.ValidationError):
                raise self._foreign(number) from None
            self._torn = True
            self._cut()
            return
        self._end += len(line)  # the position of the line feed
        self._append(b"\n")
        self._end -= len(line)
        self._note(line + b"\n", result)

    def begin(self, *, owned: bool = False) -> JournalRun:
        """Begin a run over a sequence of rows. If ``owned``, the end of the run closes the journal."""
        if not self._unfinished:  # results of this run replace errors of earlier runs
            for positions in self._failed.values():
                for position in positions:
                    self._states[position] = OTHER
        self._unfinished += 1
        return JournalRun(self, owned=owned)

    def end(self) -> None:
        """Note that all rows of a run have a result."""
        self._unfinished -= 1

    def write(
        self,
        row: Row,
        *,
        completion: ChatCompletion | None = None,
        error: GradientError | str | None = None,
    ) -> None:
        """Add a result. Once this method has returned, the result survives the end of the process, but not a power cut.

        Args:
            row: The row.
            completion: The completion, or None.
            error: The error, or None. A `str` describes an input line that is not a request.

        Raises:
            JournalError: If there is no room for the result. The file then has no part of it.
        """
        if not (row.digest or row.custom_id is not None or row.source):
            return  # the next run could not identify the row
        line = encode_result(row, completion, error)
        with self._guard:
            self._by_line = self._by_line or row.source is not None
            self._append(line)
            self._add(line, decode_result(line), LIVE)

    def _append(self, data: bytes) -> None:
        """Write a line after the last result."""
        rest = data
        try:
            if self._torn:
                self._cut()
            self._torn = True
            while rest:
                rest = rest[os.write(self._file, rest) :]
            self._torn = False
        except OSError as error:
            failure = self._failure(error)
            # The part of the line that was written is removed: the next line would be appended to it.
            with contextlib.suppress(OSError):
                self._cut()
        else:
            return
        raise failure

    def _cut(self) -> None:
        os.ftruncate(self._file, self._end)
        self._torn = False

    def _on_take(self, position: int, result: Result, row: Row) -> None:
        self._states[position] = LIVE
        if row.source is not None:
            self._by_line = True
            if result.line != row.line:
                self._moved[position] = row.line

    def tidy(self) -> int:
        """Remove superseded results from the file, and update the field ``line`` of results whose rows have moved.

        Returns:
            Number of results in the file without a row in this run.
        """
        with self._guard:
            states, live = self._states, set[Name]()
            if OTHER in states and LIVE in states:
                live.update(name for state, name in zip(states, self._names(), strict=True) if state == LIVE)
                live.discard(None)
                for position, name in enumerate(self._names()):
                    if states[position] == OTHER and name in live:
                        states[position] = SUPERSEDED
            others = states.count(OTHER)
            if SUPERSEDED in states or self._moved:
                # The old file is correct as well, only larger. So if the disk has no room for a copy, the run still succeeds.
                with contextlib.suppress(OSError, JournalError):
                    self._rewrite()
            return others

    def _results(self) -> Iterator[tuple[bytes, Result]]:
        """Yield the line of each result, and the result; skip an incomplete line at the end."""
        return ((line, result) for line, result in self._lines() if result is not None)

    def _names(self) -> Iterator[Name]:
        """Yield the present name of each result: its key, or the number of its row."""
        for position, (_, result) in enumerate(self._results()):
            name = result.name(by_line=self._by_line)
            yield self._moved.get(position, name) if isinstance(name, int) else name

    def _rewrite(self) -> None:
        """Replace the file by a copy without superseded results."""
        # The name is random, so that no other user can put a link in its place. Only this user may read the copy until it gets
        # the permissions of the old file.
        copy = self.path.with_name(f".{os.urandom(8).hex()}.tmp")
        file = os.open(
            copy, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600
        )
        old, paid = self._file, list[bytes]()
        try:
            with open(os.dup(file), "wb") as kept:  # noqa: PTH123  # a descriptor
                for position, (line, result) in enumerate(self._results()):
                    if self._states[position] != SUPERSEDED:
                        number = self._moved.get(position)
                        kept.write(line if number is None else renumbered(line, number))
                    elif result.error is None:
                        paid.append(line)
            self._keep(paid)
            _copy_rights(old, file)
            os.fsync(file)
            _lock(file)  # locked before the copy gets its final name, by which another run could open it
            copy.replace(self.path)
        except BaseException:
            os.close(file)
            copy.unlink(missing_ok=True)
            raise
        self._file, self._torn = file, False
        os.close(old)
        self._moved.clear()
        self._forget()
        errors = self.errors
        self.read_on()
        self.errors = errors

    def _keep(self, lines: list[bytes]) -> None:
        """Append superseded completions to another file: they are paid for, and the change of their rows may be a mistake."""
        if lines:
            file = self._open(self.path.with_name(f"{self.path.name}.superseded"))
            with open(file, "ab") as kept:  # noqa: PTH123  # a descriptor
                kept.writelines(lines)

    def close(self) -> None:
        """Close the file, and wait until its contents are on the disk. If all runs have reached their end, tidy it before.

        Raises:
            JournalError: If the contents can't be written to the disk.
        """
        failure: JournalError
        if self._file >= 0 and not self._unfinished:
            self.tidy()
        file = self._release()
        if file < 0:
            return
        try:
            os.fsync(file)
        except OSError as error:
            failure = self._failure(error)
        else:
            return
        finally:
            os.close(file)
        raise failure

    def _release(self) -> int:
        """Forget the file, and return it, to be closed. A later write fails, and can't reach another file with its number."""
        with self._guard:
            file, self._file = self._file, -1
            return file

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._release())  # closing the file also unlocks it
            warnings.warn(
                f"the journal {self.path} was never closed; use with, or call close()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JournalRun:
    """One run over a sequence of rows. Counts equal rows, because each has a result of its own.

    Args:
        journal: The journal.
        owned: Whether to close the journal at the end.
    """

    def __init__(self, journal: Journal, *, owned: bool) -> None:
        self.journal = journal
        self._owned = owned
        self._counts: dict[bytes, int] = {}

    def take(self, row: Row) -> ChatCompletion | GradientError | None:
        """Return the result of the next row; None if the file has none, so that the request has to be made."""
        nth = self._counts.get(row.digest, 0)
        self._counts[row.digest] = nth + 1
        return self.journal.take(row, nth)

    def end(self, *, complete: bool) -> None:
        """End the run.

        Args:
            complete: Whether all rows have a result.

        Raises:
            JournalError: If the journal can't be closed.
        """
        self._counts.clear()
        if complete:
            self.journal.end()
        if self._owned:
            self.journal.close()
