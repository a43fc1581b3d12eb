"""The objects of one reply that users hold: the stream, its bytes, and the context manager that opens and closes it."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal

from ..assembly import CompletionAssembler
from ..config import Limits, Timeout
from ..errors import RequestInfo, ResponseInfo, StreamLimitError
from ..output import Answer
from ..types import ChatCompletionChunk, Headers, ParsedChatCompletion, RateLimits
from .cursor import ChunkStream, EventStream
from .misuse import AsyncOnly, EnterFirst, NoMethod
from .reader import State, StreamReader
from .timing import Timing

if TYPE_CHECKING:
    from ..session.reply import Reply


if TYPE_CHECKING:
    # `typing.TypeVar` has defaults from Python 3.13 on. Type checkers know `typing_extensions` even where it is not installed.
    from typing_extensions import TypeVar

    C_co = TypeVar("C_co", bound=ChatCompletionChunk, default=ChatCompletionChunk, covariant=True)
    S_co = TypeVar("S_co", bound="ChatCompletionStream", default="ChatCompletionStream", covariant=True)
    T_co = TypeVar("T_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    C_co = TypeVar("C_co", covariant=True)
    S_co = TypeVar("S_co", covariant=True)
    T_co = TypeVar("T_co", covariant=True)


class ChatCompletionStream(ChunkStream, Generic[C_co]):
    """A completion as it is generated: an async iterator of chunks.

    If the stream is read to its end, its connection is used again. If it is left earlier, the connection has to be
    closed: use ``async with``, or call `aclose`.

    Args:
        reply: The reply that the session returned.
        n: Number of choices that were asked for.
        timeout: Time limits.
        limits: Limits on what a server may send.
        strict: Whether to require a finish_reason for every choice, and valid UTF-8.
        on_bad_event: For an event that is not a chunk: ``"raise"`` an error, or ``"skip"`` the event.
        keep_body: Whether each chunk keeps its JSON.
        answer: The form of the answers; None if the request names no type.

    Raises:
        StreamTruncatedError: From iterating, if the stream ended properly, but before the completion was whole.
        StreamInterruptedError: From iterating, if the connection was lost.
        StreamTimeoutError: From iterating, if no content came within a time limit.
        StreamServerError: From iterating, if the server sent an error inside the stream.
        StreamProtocolError: From iterating, if the body is not a stream of chunks.
        StreamLimitError: From iterating, if a limit was exceeded.
    """

    def __init__(
        self,
        reply: Reply,
        *,
        n: int = 1,
        timeout: Timeout,
        limits: Limits,
        strict: bool = False,
        on_bad_event: Literal["raise", "skip"] = "raise",
        keep_body: bool = False,
        answer: Answer[Any] | None = None,
    ) -> None:
        assembler = CompletionAssembler(n=n, limits=limits, strict=strict)
        reader = StreamReader(
            reply,
            assembler,
            n=n,
            timeout=timeout,
            limits=limits,
            strict=strict,
            on_bad_event=on_bad_event,
            keep_body=keep_body,
        )
        super().__init__(reader, assembler, buffered=limits.buffered_bytes, reader=reader, answer=answer)
        self._reply = reply
        self._reader = reader

    def overflow(self, who: str) -> StreamLimitError:
        """Make the error of a reader that fell too far behind."""
        error = super().overflow(who)
        error.attempts = self.attempts
        error.request_id = self.request_id
        return error

    @property
    def raw(self) -> RawStream:
        """The bytes as received, including ``[DONE]``, to relay; everything is assembled as well.

        Raises:
            TypeError: If the stream has been read in another way before.
        """
        reader = self._reader
        if not reader.relaying and (reader.state is not State.SNIFFING or self._cursor.filling):
            raise TypeError("choose stream.raw before anything else of the stream is read")
        reader.relaying = True
        return RawStream(self)

    async def next_raw(self) -> bytes:
        """Return the bytes of the next read.

        Raises:
            APIError: The error that ended the stream, after all bytes before it.
            StopAsyncIteration: At the end.
        """
        reader, cursor = self._reader, self._cursor
        # If slices of the last read are left, an earlier call was cancelled between two slices. This call then returns the
        # bytes of that read.
        if not reader.decoder.pending:
            reader.received = b""
        # All bytes of the read are relayed at once, so all of its slices count as read.
        while not reader.received or (reader.decoder.pending and reader.error is None):
            if not await cursor.fill():
                raise StopAsyncIteration
            cursor.pass_all()
        return reader.received

    # Facts about the reply

    @property
    def status_code(self) -> int:
        """HTTP status."""
        return self._reply.status

    @property
    def headers(self) -> Headers:
        """The reply's headers."""
        return self._reply.headers

    @property
    def response(self) -> StreamResponse:
        """Status, headers and request; ``await stream.response.aclose()`` closes the stream."""
        info = self._reply.info()
        return StreamResponse(
            status_code=info.status_code, headers=info.headers, request=info.request, _stream=self
        )

    @property
    def request_id(self) -> str | None:
        """The server's id of the request."""
        return self._reply.request_id

    @property
    def rate_limits(self) -> RateLimits | None:
        """The rate limits in the reply's headers."""
        return self._reply.rate_limits

    @property
    def attempts(self) -> int:
        """Number of requests that were made."""
        return self._reply.attempts

    @property
    def timing(self) -> Timing:
        """Durations of the call and its parts, in seconds."""
        return self._reader.timing

    @property
    def is_closed(self) -> bool:
        """Whether the stream was read to its end, failed, or was closed."""
        return not self._reader.open

    @property
    def saw_done(self) -> bool:
        """Whether ``[DONE]`` came."""
        return self._reader.decoder.done

    @property
    def was_buffered(self) -> bool:
        """Whether the server sent a whole completion in place of a stream."""
        return self._reader.was_buffered

    @property
    def anomalies(self) -> int:
        """Number of events that were repaired or skipped."""
        return self._reader.decoder.anomalies

    def __repr__(self) -> str:
        state = "completed" if self.completed else "open" if self._reader.open else "failed"
        return f"<{type(self).__name__} {state} {self._reply.request.url}>"

    def __del__(self) -> None:
        # If `__init__` failed, there is no reader, and nothing to close.
        reader = getattr(self, "_reader", None)
        if reader is not None and reader.open:
            reader.abandon()
            warnings.warn(
                f"{self!r} was dropped before its end; {self.advice}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


class ParsedChatCompletionStream(ChatCompletionStream, Generic[T_co]):
    """A `ChatCompletionStream` of typed answers, as ``stream(response_format=Invoice)`` opens it.

    If an answer is not a value of the type, an `OutputError` is raised at the end of the stream: by `completion`, and by
    iterating over `events`. Chunks, text and bytes are read as from any stream. `snapshot` never raises: its ``parsed`` is None
    as long as the text is not a value of the type.
    """

    if TYPE_CHECKING:

        @property
        def snapshot(self) -> ParsedChatCompletion[T_co]:
            """The completion as far as it has been read."""
            ...

        @property
        def current_completion_snapshot(self) -> ParsedChatCompletion[T_co]:
            """The same as `snapshot`."""
            ...

        def events(self) -> EventStream[T_co]:
            """The stream as typed events; shares the cursor."""
            ...

        async def completion(self) -> ParsedChatCompletion[T_co]:
            """Read to the end; return the whole completion."""
            ...

        async def get_final_completion(self) -> ParsedChatCompletion[T_co]:
            """The same as `completion`."""
            ...


class StreamResponse(ResponseInfo, frozen=True, kw_only=True):
    """The reply of a stream, whose content the stream reads."""

    _stream: ChatCompletionStream

    @property
    def http_request(self) -> RequestInfo | None:
        """The request: method, URL, and headers without keys."""
        return self.request

    @property
    def is_closed(self) -> bool:
        """Whether the stream was read to its end or closed."""
        return self._stream.is_closed

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        return _response_info, (self.status_code, self.headers, self.request)

    def __repr__(self) -> str:
        return f"<StreamResponse {self.status_code}>"


def _response_info(status_code: int, headers: Headers, request: RequestInfo | None) -> ResponseInfo:
    return ResponseInfo(status_code=status_code, headers=headers, request=request)


class StreamManager(AsyncOnly, EnterFirst, Generic[S_co]):
    """A context manager that sends the request when it is entered, and closes the stream when it is left.

    Args:
        start: Sends the request.
    """

    _opens = ChatCompletionStream
    _stream: S_co

    def __init__(self, start: Callable[[], Awaitable[S_co]]) -> None:
        self._start = start

    async def __aenter__(self) -> S_co:
        self._stream = await self._start()
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.aclose()

    def __await__(self) -> Generator[Any, None, S_co]:
        return self._start().__await__()


class RawStream(NoMethod):
    """The bytes of the stream, as received."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ChatCompletionStream) -> None:
        self._stream = stream

    def __aiter__(self) -> RawStream:
        return self

    def __anext__(self) -> Coroutine[Any, Any, bytes]:
        return self._stream.next_raw()
