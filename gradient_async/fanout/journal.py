"""The journal of `map`: a file of results, by which a later run goes on where an earlier one stopped.

- The file only grows while requests are sent. A worker appends its result, in one write, before it pulls its next request,
  so a kill costs at most the requests in flight and one line that is cut.
- A row is known by the digest of its key and its parameters. Opening a file reads it once and keeps, for each digest, where
  in the file its result is. A completion is read when its row comes, so memory is about 150 bytes for a result.
- Rows may be equal, as many samples of one prompt are: the n-th of these rows has the n-th of their results.
- The file is locked by its writer. Nothing but a last line that is cut off is ever removed from it while it is open.
- A result is superseded if it is an error and its request was made again, or if its row has changed: a row of this run has
  its key, and no row has its digest. That is known once a run has read all its requests. Then `Journal.tidy` writes a copy
  of the file without superseded results, and puts it in the place of the file. Superseded completions go to the file
  ``<path>.superseded``, because they are paid for, and the change may be a mistake.
- Until then, as after a kill, the last result of a key counts, and the next run that comes to its end removes the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
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
    """A file of results for ``map(requests, journal=...)``: results that are in it are not paid for again.

    ``map`` also takes the path of a file, and opens and closes it by itself. Open a `Journal` for several calls of `map` that
    use one file, for the option ``retry_errors``, or to read a large file in another thread:
    ``await asyncio.to_thread(Journal, path)``. Close it, or use ``with``: that tidies the file and waits until it is on the
    disk.

    Args:
        path: The file; created if it does not exist, for this user alone.
        retry_errors: Make the requests of all errors again, also those whose requests the server refused with 400, 404, 413
            or 422.

    Attributes:
        path: The file.
        errors: Number of results in the file, as it was opened, that are errors.

    Raises:
        JournalError: If another process writes to the file, if the file holds anything but results, if it is not a
            regular file, or if it can't be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, retry_errors: bool = False) -> None:
        super().__init__(Path(path), -1, retry_errors=retry_errors)
        self._torn = False  # whether there may be a part of a line after the last result
        self._unfinished = 0  # runs that have not come to their end
        self._by_line = False  # whether lines without custom_id are known by their number
        self._moved: dict[int, int] = {}  # results whose rows have another number now
        self._file = self._open(self.path)
        try:
            self._load()
        except BaseException:
            os.close(self._release())
            raise

    def _open(self, path: Path, flags: int = 0) -> int:
        """Open or create a file for reading and appending.

        Another user with access to the folder may have made a symbolic link of that name, so that this program overwrites a
        file of its user. So no link is followed.
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
        # A device may give bytes without end, and a pipe keeps nothing for the next run.
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise self._error(
                f"{self.path} is not a regular file, so a later run could not read it; name another file"
            )
        failure: OSError | None = None
        try:
            _lock(self._file)
            # If another run has replaced the file, the lock on the old file is free, but the old file has no name.
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
            # Whole JSON that is not a result was not cut off: another program wrote it.
            if not is_torn(line) or isinstance(error, msgspec.ValidationError):
                raise self._foreign(number) from None
            self._torn = True
            self._cut()
            return
        self._end += len(line)  # where the line feed goes
        self._append(b"\n")
        self._end -= len(line)
        self._note(line + b"\n", result)

    def begin(self, *, owned: bool = False) -> JournalRun:
        """Begin a run over a sequence of rows; ``owned`` closes the journal at its end."""
        if not self._unfinished:  # errors of earlier runs are replaced by results of this run
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
            error: The error, or None; an error that is a `str` says why an input line is not a request.

        Raises:
            JournalError: If there is no room for the result; nothing of it is in the file then.
        """
        if not (row.digest or row.custom_id is not None or row.source):
            return  # nothing would show the next run that its row is the same
        line = encode_result(row, completion, error)
        with self._guard:
            self._by_line = self._by_line or row.source is not None
            self._append(line)
            self._add(line, decode_result(line), LIVE)

    def _append(self, data: bytes) -> None:
        """Write after the last result."""
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
            # Half a line would spoil the next line that is written.
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
        """Remove superseded results from the file, and give results their rows' present ``line``.

        Returns:
            Number of results in the file that no row of this run has.
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
                # The file is right as it is, only larger: a disk without room for a copy must not end a run that has
                # all its results.
                with contextlib.suppress(OSError, JournalError):
                    self._rewrite()
            return others

    def _results(self) -> Iterator[tuple[bytes, Result]]:
        """Yield the line of each result and the result; a part of a line after them is not one."""
        return ((line, result) for line, result in self._lines() if result is not None)

    def _names(self) -> Iterator[Name]:
        """Yield what each result is called now."""
        for position, (_, result) in enumerate(self._results()):
            name = result.name(by_line=self._by_line)
            yield self._moved.get(position, name) if isinstance(name, int) else name

    def _rewrite(self) -> None:
        """Replace the file by a copy without superseded results."""
        # The name is random, so that nobody can put a link there before. Only this user may read the copy until it has the
        # permissions of the old file.
        copy = self.path.with_name(f".{secrets.token_hex(8)}.tmp")
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
            _lock(file)  # before another run can open it by its final name
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
        """Append superseded completions to a file of their own: they are paid for, and the change may be a mistake."""
        if lines:
            file = self._open(self.path.with_name(f"{self.path.name}.superseded"))
            with open(file, "ab") as kept:  # noqa: PTH123  # a descriptor
                kept.writelines(lines)

    def close(self) -> None:
        """Tidy the file, if all runs have come to their end; wait until its contents are on the disk, and close it.

        Raises:
            JournalError: If the contents can't be brought to the disk.
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
        """Return the file to whoever closes it; a later write fails, and can't reach another file of the same number."""
        with self._guard:
            file, self._file = self._file, -1
            return file

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._release())  # also unlocks the file
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
    """One run over a sequence of rows: knows which of them are equal.

    Args:
        journal: The journal.
        owned: Whether to close the journal at the end.
    """

    def __init__(self, journal: Journal, *, owned: bool) -> None:
        self.journal = journal
        self._owned = owned
        self._counts: dict[bytes, int] = {}

    def take(self, row: Row) -> ChatCompletion | GradientError | None:
        """Return the result of the next row; None if its request has to be made."""
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
