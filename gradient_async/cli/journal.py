"""The journal of ``gradient-async map``: a file of results, which a later run continues.

The file is JSONL: UTF-8, one JSON object on each line, each line with a line feed at its end. A line is the result of
one line of the input (the request file). Its fields:

- ``id``: id of the completion, or null.
- ``custom_id``: name that the input line gives to its request, or null. It is null for a line that repeats the
  ``custom_id`` of an earlier line.
- ``line``: number of the input line, from 1; empty lines count.
- ``digest``: BLAKE2b of the input line's bytes without white space at both ends (and without a byte order mark), 8
  bytes as 16 hexadecimal digits. Files of early versions lack the field.
- ``response``: null, or an object with ``status_code`` (200), ``request_id`` (or null), and ``body``: the reply with all
  fields that the server sent or, if it was streamed, the completion.
- ``error``: null, or an object with ``type`` (the name of the exception's class, or ``BadLine`` for an input line that
  is not a request) and ``message``; for an `APIError` also ``code``, ``status_code``, ``request_id``, ``retry_after``
  and ``attempts``, each of which may be null; and ``partial``, the completion so far, if a stream broke off.

Exactly one of ``response`` and ``error`` is null. The key of a result is its ``custom_id``. If ``custom_id`` is null or
the error is a ``BadLine``, the key is ``line`` instead, because a line that is not a request may have the ``custom_id``
of another line. No two results of a file have the same key. Results are in the order in which they arrived.

A reader needs ``line``, ``custom_id``, ``response`` and ``error`` (with its ``type``), and ignores unknown fields. A
process that is killed may leave a last line without its line feed: if the line is whole, the next run adds the line
feed; if the JSON is cut, the next run removes the line and makes the request again. ``id`` is the first field, without
a space before its value: a last line that begins in another way is not a result, and the file is refused unchanged.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from ..errors import APIError, GradientError, StreamError
from ..types import ChatCompletion

Key: TypeAlias = str | int

_BAD_LINE = "BadLine"
_START = b'{"id":'  # every result starts so, because `encode_result` puts the field first
_API_ERROR_FIELDS = ("code", "status_code", "request_id", "retry_after", "attempts")


if sys.platform == "win32":

    def _lock(file: int) -> None:
        """Do nothing: Windows has no `fcntl` locks."""

    def _copy_rights(source: int, target: int) -> None:
        """Do nothing: on Windows a new file inherits the permissions of its folder."""

else:
    import fcntl

    def _lock(file: int) -> None:
        """Keep other processes from locking an open file; raise `OSError` if one has locked it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _copy_rights(source: int, target: int) -> None:
        """Copy the permissions of an open file to another open file."""
        os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode))


def _open(path: Path, flags: int = 0) -> int:
    """Open or create a file for reading and appending; only this user may read a file that is created here.

    Raises:
        JournalError: If the path is a symbolic link. Another user with access to the folder may have made the link, so
            that this program overwrites a file of its user.
    """
    flags |= os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    raise JournalError(f"{path} is a symbolic link; name the file itself")


class JournalError(Exception):
    """The file can't be used; the message says why, and what to do."""


def key_of(line: int, custom_id: str | None, *, bad: bool) -> Key:
    """Return the key of an input line and of its result; ``bad`` if the line is not a request."""
    return line if bad or custom_id is None else custom_id


def encode_result(
    line: int,
    custom_id: str | None,
    digest: str,
    *,
    completion: ChatCompletion | None = None,
    error: GradientError | str | None = None,
) -> bytes:
    """Encode a result as a line of the file; an error that is a `str` says why the line is not a request."""
    response = None
    if completion is not None:
        body = completion.to_dict() if completion.body is None else completion.body
        response = {"status_code": 200, "request_id": completion.request_id, "body": body}
    row = {
        "id": None if completion is None else completion.id,
        "custom_id": custom_id,
        "line": line,
        "digest": digest,
        "response": response,
        "error": _error_fields(error),
    }
    return msgspec.json.encode(row) + b"\n"


def _error_fields(error: GradientError | str | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, str):
        return {"type": _BAD_LINE, "message": error}
    fields: dict[str, Any] = {"type": type(error).__name__, "message": error.message}
    if isinstance(error, APIError):
        fields |= {name: getattr(error, name) for name in _API_ERROR_FIELDS}
    if isinstance(error, StreamError) and error.partial is not None:
        fields["partial"] = error.partial.to_dict()
    return fields


class _Error(msgspec.Struct):
    """The error of a result, as far as a reader needs it."""

    type: str


class _Result(msgspec.Struct):
    """A line of the file, as far as a reader needs it. Fields without a default must be there."""

    line: int
    custom_id: str | None
    response: msgspec.Raw
    error: _Error | None
    digest: str = ""

    @property
    def key(self) -> Key:
        bad = self.error is not None and self.error.type == _BAD_LINE
        return key_of(self.line, self.custom_id, bad=bad)


_decode = msgspec.json.Decoder(_Result).decode


def _is_torn(line: bytes) -> bool:
    """Whether a line is the beginning of a result, or the zeros that a power cut leaves in some file systems.

    Anything else belongs to a file of another program. Such a file must not lose its last line.
    """
    start = line[: len(_START)]
    return not line.endswith(b"\n") and (_START.startswith(start) or not line.strip(b"\0"))


class Journal:
    """An open file of results.

    Args:
        path: The file; created if it does not exist.

    Attributes:
        done: The digest of the input line ("" if unknown) for the key of each result in the file.
        errors: Number of results in the file, as it was opened, that are errors.

    Raises:
        JournalError: If another process writes to the file, if the file holds anything but results, or if it is not a
            regular file.
        OSError: If the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open(path)
        self.done: dict[Key, str] = {}
        self.errors = 0
        try:
            self._load()
        except BaseException:
            os.close(self._file)
            raise

    def _load(self) -> None:
        # A device may give bytes without end, and a pipe keeps nothing for the next run.
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise JournalError(
                f"{self._path} is not a regular file, so a later run could not read it; name another file"
            )
        try:
            _lock(self._file)
            # If another run has replaced the file, the lock on the old file is free, but the old file has no name.
            replaced = not os.path.samestat(os.fstat(self._file), self._path.lstat())
        except OSError:
            replaced = True
        if replaced:
            raise JournalError(f"another run is writing to {self._path}; wait until it ends")
        last = b"\n"
        for line, result in self._read():
            self.done[result.key] = result.digest
            self.errors += result.error is not None
            last = line
        if not last.endswith(b"\n"):
            self.write(b"\n")

    def _read(self) -> Iterator[tuple[bytes, _Result]]:
        """Yield each line of the file with its decoded result; remove a last line that is cut off."""
        with open(os.dup(self._file), "rb") as file:  # noqa: PTH123  # the file that is locked, whatever has its name now
            file.seek(0)
            for number, line in enumerate(file, 1):
                try:
                    result = _decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    # Whole JSON that is not a result was not cut off: another program wrote it.
                    if _is_torn(line) and not isinstance(error, msgspec.ValidationError):
                        os.ftruncate(self._file, os.fstat(self._file).st_size - len(line))
                        return
                    raise JournalError(
                        f"{self._path}:{number} is not a result of this command; choose another file for the results"
                    ) from None
                yield line, result

    def forget_errors(self) -> int:
        """Remove the results that are errors from the file; return their number.

        Raises:
            OSError: If the file can't be replaced; it is unchanged then.
        """
        # The name is random, so that nobody can put a link there before. Only this user may read the copy until it has the
        # permissions of the old file.
        copy = self._path.with_name(f".{secrets.token_hex(8)}.tmp")
        file = _open(copy, os.O_EXCL)
        old, forgotten = self._file, self.errors
        try:
            with open(os.dup(file), "wb") as kept:  # noqa: PTH123  # a descriptor
                for line, result in self._read():
                    if result.error is not None:
                        self.done.pop(result.key, None)
                    else:
                        kept.write(line)
            _copy_rights(old, file)
            os.fsync(file)
            _lock(file)  # before another run can open it by its final name
            copy.replace(self._path)
        except BaseException:
            os.close(file)
            copy.unlink(missing_ok=True)
            raise
        self._file, self.errors = file, 0
        os.close(old)
        return forgotten

    def write(self, line: bytes) -> None:
        """Add a line. Once this method has returned, the line survives the end of the process, but not a power cut.

        Raises:
            OSError: If there is no room for the line; nothing of it is in the file then.
        """
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            # Half a line would spoil the next line that is written.
            os.ftruncate(self._file, os.fstat(self._file).st_size - (len(line) - len(rest)))
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    def close(self) -> None:
        """Wait until the file's contents are on the disk, then close it."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)
