"""Reads the results of `map` in a file: their format, the search for the result of a request, and the decoding of a result.

The file is JSONL: UTF-8, one JSON object on each line, each line with a line feed at its end. The fields of a result are:

- ``id``: id of the completion, or null.
- ``custom_id``: the key of the request, or null. Keys that JSON does not have are written as the JSON of a parameter would
  be: a tuple as an array, a UUID or a date as text.
- ``line``: number of the request, from 1; in ``gradient-async map`` the number of the input line, empty lines included.
- ``digest``: BLAKE2b of ``[key, parameters]`` as JSON with sorted names, 16 bytes as 32 hexadecimal digits. Parameters are
  those of the request and, where it does not give them, of all requests. ``stream``, ``stream_options``, ``timeout`` and
  ``extra_headers`` do not count, because they change how an answer is sent and not what it is. In files of earlier versions
  the field has 16 digits, of the input line's text, or is missing.
- ``response``: null, or an object with ``status_code`` (200), ``request_id`` (or null), ``attempts``, and ``body``: the reply
  with all fields that the server sent or, if it was streamed, the completion. If there were several attempts, ``usage`` has
  the usage of all of them, which is more than that in the body if an answer was asked for again.
- ``error``: null, or an object with ``type`` (the name of the exception's class, or ``BadLine`` for an input line that
  is not a request) and ``message``; for an `APIError` also ``code``, ``status_code``, ``request_id``, ``retry_after``
  and ``attempts``, each of which may be null; and ``partial``, the completion so far, if a stream broke off, or the whole
  completion, if its text is not a value of the type of the answer.

Exactly one of ``response`` and ``error`` is null. In files of ``gradient-async map``, the key of a result is its ``line`` if
``custom_id`` is null or the error is a ``BadLine``, because a line that is not a request may have the ``custom_id`` of another
line. Results are in the order in which they arrived.

A reader needs ``line``, ``custom_id``, ``response`` and ``error`` (with its ``type``), and ignores unknown fields. A process
that is killed may leave a last line without its line feed: if the line is whole, the next run adds the line feed; if the
JSON is cut, the next run removes the line and makes the request again. ``id`` is the first field, without a space before its
value: a last line that begins in another way is not a result, and the file is refused unchanged.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeAlias

import msgspec

from .. import errors
from ..decoding import decode_body, decode_completion, plain_params
from ..errors import (
    APIError,
    APIResponseValidationError,
    GradientError,
    InvalidRequestError,
    JournalError,
    OutputError,
    ResponseInfo,
    status_error_class,
)
from ..types import ChatCompletion, CompletionUsage, Headers

Name: TypeAlias = bytes | int | None  # the custom_id of a result as JSON, or the number of its line

_BAD_LINE = "BadLine"
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_START = b'{"id":'  # every result begins with this, because `encode_result` puts the field first
_DIGEST_BYTES = 16
_API_ERROR_FIELDS = ("code", "status_code", "request_id", "retry_after", "attempts")
# The server would answer the same request with these statuses again, so another run does not send it unless told to.
_OWN_FAULT = frozenset({400, 404, 413, 422})
_NOT_IN_DIGEST = frozenset({"stream", "stream_options", "timeout", "extra_headers"})
_KEPT = frozenset({"timeout", "extra_headers"})  # these options have no JSON form, and need not be read twice

# The states of a result: no row of this run has it, a row of this run has it, or another result replaces it.
OTHER, LIVE, SUPERSEDED = 0, 1, 2


class InputLine(msgspec.Struct, frozen=True):
    """A key for `map` that is a line of an input file. Without ``custom_id``, its number identifies the line.

    Attributes:
        number: Number of the line, from 1.
        custom_id: The name that the line gives to its request, or None.
        digest: Digest of the text of the line, for files of earlier versions.
    """

    number: int
    custom_id: str | None
    digest: str


class Row(NamedTuple):
    """A request, as a journal identifies it.

    Attributes:
        line: Number of the request, from 1.
        custom_id: The key as JSON, or None.
        digest: Digest of key and parameters; empty if they have no JSON form.
        source: The line of an input file that the request comes from, or None.
        bad: Whether this line is not a request.
    """

    line: int
    custom_id: Any
    digest: bytes
    source: InputLine | None = None
    bad: bool = False

    @classmethod
    def of(cls, index: int, key: Any) -> Self:
        """Return the row of a request whose parameters are not known yet.

        Raises:
            InvalidRequestError: If the key has no JSON form.
        """
        if isinstance(key, InputLine):
            return cls(key.number, key.custom_id, b"", key)
        custom_id = plain_params({"key": key})["key"]
        _canonical(custom_id)
        return cls(index + 1, custom_id, b"")

    def asking(self, params: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Return the row with the digest of its parameters, and the parameters in a form that can be read twice.

        Raises:
            InvalidRequestError: If a parameter has no JSON form.
        """
        plain = {
            name: value if name in _KEPT else plain_params({name: value})[name]
            for name, value in params.items()
        }
        counted = {name: value for name, value in plain.items() if name not in _NOT_IN_DIGEST}
        text = _canonical([self.custom_id, counted])
        return self._replace(digest=hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()), plain


def _canonical(plain: Any) -> bytes:
    problem: str
    try:
        return msgspec.json.encode(plain, order="deterministic")
    except ValueError as error:  # the row has half a surrogate pair, or a number of too many digits
        problem = str(error)
    raise InvalidRequestError(f"the request can't be written as JSON: {problem}")


Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]*$")]


class _Error(msgspec.Struct):
    """The error of a result, as far as it is read."""

    type: str
    message: str = ""
    code: Any = None
    status_code: int | None = None
    request_id: Any = None
    attempts: int | None = None


class _Response(msgspec.Struct):
    """The reply of a result, as far as it is read."""

    body: msgspec.Raw
    request_id: str | None = None
    attempts: int = 1
    usage: CompletionUsage | None = None


class Result(msgspec.Struct):
    """A line of the file, as far as it is read when the file is opened. Fields without a default must be there."""

    line: int
    custom_id: Any
    response: msgspec.Raw
    error: _Error | None
    digest: Digest = ""

    def name(self, *, by_line: bool) -> Name:
        """Return the name of the result: its ``custom_id``, else its number if ``by_line`` is true, else None."""
        if self.custom_id is None or (self.error is not None and self.error.type == _BAD_LINE):
            return self.line if by_line else None
        return msgspec.json.encode(self.custom_id)

    def answer(self) -> ChatCompletion | GradientError | None:
        """Return the completion or the error; None if the file does not have it in a form that can be decoded."""
        if self.error is not None:
            return _error_of(self.error)
        try:
            response = _decode_response(self.response)
            body = bytes(response.body)
            completion = decode_completion(body, max_values=None)
        except (msgspec.DecodeError, APIResponseValidationError):
            return None
        completion.receive(body, decode_body)
        completion.request_id, completion.attempts = response.request_id, response.attempts
        completion.usage = response.usage or completion.usage
        return completion


decode_result = msgspec.json.Decoder(Result).decode
_decode_response = msgspec.json.Decoder(_Response).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _error_of(error: _Error) -> GradientError:
    status = error.status_code
    kind: Any = vars(errors).get(error.type)
    if not (isinstance(kind, type) and issubclass(kind, APIError)):
        if status is None:
            return (InvalidRequestError if kind is InvalidRequestError else GradientError)(error.message)
        kind = status_error_class(status)
    found: APIError = kind(
        error.message,
        response=None if status is None else ResponseInfo(status_code=status, headers=Headers()),
        code=error.code,
        request_id=error.request_id,
        attempts=error.attempts or 1,
    )
    return found


def _error_fields(error: GradientError | str | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, str):
        return {"type": _BAD_LINE, "message": error}
    fields: dict[str, Any] = {"type": type(error).__name__, "message": error.message}
    if isinstance(error, APIError):
        fields |= {name: getattr(error, name) for name in _API_ERROR_FIELDS}
    partial = error.completion if isinstance(error, OutputError) else getattr(error, "partial", None)
    if partial is not None:
        fields["partial"] = partial.to_dict()
    return fields


def _response_fields(completion: ChatCompletion | None) -> dict[str, Any] | None:
    if completion is None:
        return None
    # `completion.body` is not read here: it would keep the decoded body for as long as the user keeps the completion.
    content, decode, _ = getattr(completion, "source", (None, None, None))
    body = content if decode is None else decode(content)
    several = {} if completion.attempts == 1 else {"usage": completion.usage}
    return {
        "status_code": 200,
        "request_id": completion.request_id,
        "attempts": completion.attempts,
        **several,
        "body": completion.to_dict() if body is None else body,
    }


def encode_result(row: Row, completion: ChatCompletion | None, error: GradientError | str | None) -> bytes:
    """Encode a result as a line of the file. An error that is a `str` describes an input line that is not a request."""
    fields = {
        "id": None if completion is None else completion.id,
        "custom_id": row.custom_id,
        "line": row.line,
        "digest": row.digest.hex(),
        "response": _response_fields(completion),
        "error": _error_fields(error),
    }
    return msgspec.json.encode(fields) + b"\n"


def is_torn(line: bytes) -> bool:
    """Whether a line is the beginning of a result, or the zeros that a power cut leaves in some file systems.

    Anything else belongs to a file of another program. Such a file must not lose its last line.
    """
    start = line[: len(_START)]
    return _START.startswith(start) or not line.strip(b"\0")


def renumbered(line: bytes, number: int) -> bytes:
    """Return the line of a result with another number of its request."""
    fields = _decode_fields(line)
    fields["line"] = msgspec.Raw(b"%d" % number)
    return msgspec.json.encode(fields) + b"\n"


class ResultFile:
    """The results in an open file, which another process may be writing to.

    Args:
        path: The path, for messages.
        file: The file.
        retry_errors: Whether results that are errors count as if they were not there, also those which the same request
            would get again.

    Attributes:
        path: The path.
        errors: Number of results that are errors, of those that were read from the file.
    """

    def __init__(self, path: Path, file: int, *, retry_errors: bool = False) -> None:
        self.path = path
        self.errors = 0
        self._file = file
        self._retry_errors = retry_errors
        # Several maps, in several threads, may share a journal. Reentrant, because a finaliser may close it at any moment.
        self._guard = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self._end: int = 0  # end of the last result
        self._starts = array("Q")  # where each result begins; it ends where the next begins
        self._states = bytearray()
        # For each digest, the position of the result in `_starts`, or a list of positions if several rows are equal, which is
        # rare.
        self._by_digest: dict[bytes, int | list[int]] = {}
        self._by_name: dict[Name, tuple[int, str]] = {}  # results of earlier versions, and their digests
        self._failed: dict[bytes, list[int]] = {}  # errors whose requests are to be made again

    def read_on(self) -> bytes:
        """Read the results that were added since the last time; return the bytes after the last line feed.

        Raises:
            JournalError: If a line is not a result, or the file can't be read.
        """
        for line, result in self._lines(self._end, len(self._starts)):
            if result is None:
                return line
            self._note(line, result)
        return b""

    def _note(self, line: bytes, result: Result) -> None:
        """Note a result of an earlier run."""
        self.errors += result.error is not None
        self._add(line, result, OTHER)

    def _lines(self, start: int = 0, number: int = 0) -> Iterator[tuple[bytes, Result | None]]:
        """Yield each line and its result, which is None for a last line without its line feed.

        Args:
            start: Where to begin in the file.
            number: How many lines are before.
        """
        try:
            # This reads the file that is open and locked, even if another file has got its name.
            with open(os.dup(self._file), "rb") as file:  # noqa: PTH123
                file.seek(start)
                for line in file:
                    number += 1
                    yield line, self._result(line, number) if line.endswith(b"\n") else None
        except OSError as error:
            raise self._failure(error) from None

    def _result(self, line: bytes, number: int) -> Result:
        try:
            return decode_result(line)
        except DECODE_ERRORS:
            pass
        raise self._foreign(number)

    def _foreign(self, number: int) -> JournalError:
        return self._error(
            f"{self.path}:{number} is not a result of map; choose another file for the results"
        )

    def _error(self, message: str) -> JournalError:
        return JournalError(message, path=str(self.path))

    def _failure(self, error: OSError) -> JournalError:
        return self._error(f"{self.path}: {error.strerror or error}; {_advice(error)}")

    def _add(self, line: bytes, result: Result, state: int) -> None:
        """Note a result that is in the file."""
        position = len(self._starts)
        self._starts.append(self._end)
        self._end += len(line)
        self._states.append(state)
        final = self._is_final(result.error)
        if len(result.digest) != 2 * _DIGEST_BYTES:
            if final:
                self._by_name[result.name(by_line=True)] = position, result.digest
            return
        digest = bytes.fromhex(result.digest)
        failed = self._failed.get(digest)
        # Equal rows of one run do not replace each other's errors.
        if failed and (self._states[failed[0]] == OTHER if state == LIVE else final):
            self._states[failed.pop(0)] = SUPERSEDED
        if not final:
            self._failed.setdefault(digest, []).append(position)
        elif (first := self._by_digest.setdefault(digest, position)) != position:
            if isinstance(first, int):
                first = self._by_digest[digest] = [first]
            first.append(position)

    def _is_final(self, error: _Error | None) -> bool:
        """Whether a result counts: a completion, or an error which the same request would get again."""
        return error is None or (
            not self._retry_errors and (error.type == _BAD_LINE or error.status_code in _OWN_FAULT)
        )

    def take(self, row: Row, nth: int = 0) -> ChatCompletion | GradientError | None:
        """Return the result of a row; None if its request has to be made.

        Args:
            row: The row.
            nth: How many rows of the run before this one were equal to it.

        Raises:
            JournalError: If the file can't be read.
        """
        with self._guard:
            position = self._find(row, nth)
            if position is None:
                return None
            ends = self._starts[position + 1 : position + 2] or (self._end,)
            result = self._read(self._starts[position], ends[0])
            answer = result.answer()
            if answer is not None:
                self._on_take(position, result, row)
            return answer

    def _read(self, start: int, end: int) -> Result:
        try:
            os.lseek(self._file, start, os.SEEK_SET)
            return decode_result(os.read(self._file, end - start))
        except OSError as error:
            failure = self._failure(error)
        except msgspec.DecodeError:
            failure = self._error(f"{self.path} was changed by another program; run the same again")
        raise failure

    def _on_take(self, position: int, result: Result, row: Row) -> None:
        """Note that a row has a result."""

    def _find(self, row: Row, nth: int) -> int | None:
        found = self._by_digest.get(row.digest)
        if found is not None:
            positions = [found] if isinstance(found, int) else found
            return positions[nth] if nth < len(positions) else None
        name = row.line if row.bad or row.custom_id is None else msgspec.json.encode(row.custom_id)
        position, digest = self._by_name.get(name, (None, ""))
        if row.source is not None and digest not in {"", row.source.digest}:
            return None
        return position


def _advice(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return "make room, and run the same again: it goes on after the results in the file"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "choose a file that you may write to, or change its rights"
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}:
        return "name a file in a folder that exists"
    if error.errno == errno.EBADF:
        return "the journal has been closed; open it again"
    return "when that is mended, run the same again: it goes on after the results in the file"
