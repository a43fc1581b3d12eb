"""Events one by one: any that servers send, with a closer look at those that are not usual."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import msgspec

from ..config import Limits
from ..errors import StreamError, StreamProtocolError, escape
from ..sse import Event
from ..types import ChatCompletionChunk, ChoiceDelta, ChunkChoice
from .bounds import refusal
from .error_bodies import ErrorBody, find_error, server_error
from .normalize import REFUSED, is_object, loads, settle, to_chunk, well_formed

__all__ = ["DONE", "CarefulDecoder", "fit_choice", "is_whole"]

DONE = b"[DONE]"

_decode = msgspec.json.Decoder(ChatCompletionChunk).decode
_PIECES = ("content", "reasoning_content", "refusal")


class CarefulDecoder:
    """Decodes the events of one stream; what is the same for each chunk, however it came.

    Args:
        limits: Sizes a server may send.
        strict: Refuse bad UTF-8 instead of replacing it.
        on_bad_event: ``"raise"``, or ``"skip"`` for gateways that mix other text into the stream.
        n: How many choices were asked for, or None.
    """

    __slots__ = ("_calls", "_held", "_indices", "_skip", "_strict", "anomalies", "done", "error", "events")

    def __init__(
        self, limits: Limits, *, strict: bool, on_bad_event: Literal["raise", "skip"], n: int | None
    ) -> None:
        self._indices = None if n is None else range(max(n, limits.choices))
        self._calls = range(limits.tool_calls)
        self._strict = strict
        self._skip = on_bad_event == "skip"
        # High surrogates that ended a delta, by choice and field: their other half may be in the next.
        self._held: dict[tuple[int, str], str] = {}
        self.error: StreamError | None = None
        self.done: bool = False
        self.events: int = 0
        self.anomalies: int = 0

    def _each(self, events: list[Event]) -> list[ChatCompletionChunk]:
        chunks: list[ChatCompletionChunk] = []
        for event in events:
            data = event.data.strip()
            if event.type != "error":  # which is one whatever it holds
                if not data:
                    continue  # a keep-alive
                if data == DONE:
                    return chunks + self._finish()
            self.events += 1
            try:
                chunk = self._one(data, event.type)
            except StreamError as error:
                self._fail(error)
                if not chunks:
                    raise
                break
            if chunk is not None:
                chunks.append(chunk)
        return chunks

    def _one(self, data: bytes, name: str) -> ChatCompletionChunk | None:
        if name == "error":
            self._raise_error(data)
        try:
            chunk = _decode(data)
        except REFUSED:
            return self._tolerant(data)
        if chunk._error is not None or not chunk.choices:  # noqa: SLF001  # private to the package
            error = find_error(_peek(data))
            if error is not None:
                raise server_error(error)
        for choice in chunk.choices:
            fit_choice(choice)
        self.check(chunk)
        if self._held:
            self._hold(chunk)
        return chunk

    def _tolerant(self, data: bytes) -> ChatCompletionChunk | None:
        if data == b"null":
            return None  # a keep-alive
        problem: str
        try:
            if self._strict:
                data.decode()
            body = loads(data)
            error = find_error(body)
            if error is not None:
                raise server_error(error)
            chunk = to_chunk(body)
        except RecursionError:
            problem = "nested too deep"
        except ValueError as refused:  # bad UTF-8, JSON and shapes alike
            problem = str(refused)
        else:
            self.check(chunk)
            self.anomalies += 1
            self._hold(chunk)
            return chunk
        if self._skip:
            self.anomalies += 1
            return None
        head = escape(data[:200].decode("utf-8", "replace"))
        raise StreamProtocolError(
            f"event {self.events} of the stream is not a chat completion chunk: {escape(problem)}; "
            f"it begins with {head!r}",
            body=data[:200].decode("utf-8", "replace"),
        )

    def check(self, chunk: ChatCompletionChunk) -> None:
        """Refuse a chunk before anybody sees it, if an index of it is none, or that of too many.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If it is that of more choices or tool calls than `Limits` allow.
        """
        for choice in chunk.choices:
            error = refusal(choice, self._indices, self._calls)
            if error is not None:
                raise error

    def _hold(self, chunk: ChatCompletionChunk) -> None:
        """Join surrogate pairs that two deltas share; keep back a high one at a delta's end."""
        for choice in chunk.choices:
            delta = choice.delta
            last = choice.finish_reason is not None
            for name in _PIECES:
                key = (choice.index, name)
                text = getattr(delta, name)
                if not text and not last:
                    continue
                text = self._held.pop(key, "") + (text or "")
                if not text:
                    continue
                if "\ud800" <= text[-1] <= "\udbff" and not last:
                    self._held[key] = text[-1]
                    text = text[:-1]
                setattr(delta, name, well_formed(text))

    def _release(self) -> list[ChatCompletionChunk]:
        """At the end, a high surrogate whose other half never came becomes U+FFFD."""
        chunks: list[ChatCompletionChunk] = []
        for index, name in self._held:
            delta = ChoiceDelta()
            setattr(delta, name, "\ufffd")
            chunks.append(ChatCompletionChunk(choices=[ChunkChoice(index=index, delta=delta)]))
        self._held.clear()
        return chunks

    def _raise_error(self, data: bytes) -> NoReturn:
        body = _peek(data)
        error = find_error(data.decode("utf-8", "replace") if body is None else body, named=True)
        raise server_error(error or ErrorBody(message="", body=body))

    def _finish(self) -> list[ChatCompletionChunk]:
        """The stream has ended."""
        self.done = True
        return self._release()

    def _fail(self, error: StreamError) -> None:
        # The first is the one told: a limit may be exceeded behind an error in the same bytes.
        if self.error is None:
            error.events = self.events
            self.error = error


def fit_choice(choice: ChunkChoice) -> None:
    """Bring what a chunk says of a choice to its documented shape."""
    settle(choice.delta)
    choice.finish_reason = choice.finish_reason or None


def _peek(data: bytes) -> Any:
    """Decode an event's payload to plain data; None if it can't be."""
    try:
        return loads(data)
    except (ValueError, RecursionError):
        return None


def is_whole(event: Event) -> bool:
    """Whether an event that no blank line ended is there all the same: what was torn does not parse."""
    return event.type == "error" or event.data.strip() == DONE or is_object(_peek(event.data))
