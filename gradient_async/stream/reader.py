"""Reads one reply: decodes its bytes to chunks, and judges at the end whether the completion is whole.

Theory of operation. A reader is in one of six states. The state alone decides what may happen next:

```
SNIFFING ──stream──> STREAMING ──[DONE] | end | loss | limit──> judged ──whole──> ENDED
    └────json──────> WHOLE ──────end | loss | limit─────────────┘  └────short──> FAILED
any ── error event | size limit | bad chunk ──> FAILED          any ── close, __del__ ──> LEFT
```

SNIFFING lasts until the first bytes show what the body is. The content type alone does not show it: servers send event
streams under many types, and whole completions in place of streams. WHOLE collects such a completion. The judgement
needs the completion that has been assembled so far, so callers must assemble all chunks before they call `next_chunks`.

Errors never overtake chunks. Chunks that arrived before a loss, a limit or a bad event are returned first, and the next
call raises. In FAILED, every call raises an equal error, which has everything received in `.partial`.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..assembly import CompletionAssembler
from ..config import Limits, Timeout
from ..decoding import (
    ChunkDecoder,
    ErrorBody,
    OtherAPI,
    as_chunk,
    decode_body,
    decode_completion,
    identify_reply,
    server_error,
)
from ..errors import (
    APIError,
    APIResponseValidationError,
    Phase,
    StreamError,
    StreamInterruptedError,
    StreamLimitError,
    StreamProtocolError,
    StreamTimeoutError,
    StreamTruncatedError,
    copy_of,
)
from ..hooks import Outcome
from ..types import ChatCompletion, ChatCompletionChunk
from ..types.nesting import TooManyValuesError
from .sniff import is_event_stream, what_is
from .timing import Content, ReadTimes, Timing

if TYPE_CHECKING:
    from ..session.reply import Reply

# A read of 256 kB takes milliseconds to decode. Other tasks get a turn after this many slices of about 16 kB, or after
# this many seconds, whichever comes first. `time.monotonic` measures the seconds, because uvloop's clock stands still
# within one iteration of the loop.
_SLICES_PER_TURN = 4
_SECONDS_PER_TURN = 0.005
# A read up to this size, in bytes, is decoded in one call; cutting it into slices would cost more than it saves.
_ONE_GO = 4 * 1024
_HEAD = 200  # bytes of a body to show in an error


class State(enum.Enum):
    """The states of a reader; the docstring of this file draws the transitions."""

    SNIFFING = "sniffing"
    STREAMING = "streaming"
    WHOLE = "whole"
    ENDED = "ended"
    FAILED = "failed"
    LEFT = "left"


class StreamReader:
    """Reads the body of a stream; no other code does.

    Attributes:
        body: The body.
        decoder: The decoder of the event stream.
        state: The state.
        steady: Whether nothing is unusual, so that `body.start_read` and `finish_read` may be called in place of
            `next_chunks`.
        error: The error that ended the stream, or None.
        was_buffered: Whether the server sent a whole completion in place of a stream.
        relaying: Whether the user reads `stream.raw`, so that the bytes of each read are kept in `received`.
        received: Bytes of the last read, if they are relayed.
    """

    __slots__ = (
        "_assembler",
        "_awaiting_content",
        "_body_over",
        "_content",
        "_limits",
        "_loop",
        "_lost",
        "_read_at",
        "_reply",
        "_size",
        "_slices",
        "_sniffed",
        "_timeout",
        "_times",
        "_turn_began",
        "body",
        "decoder",
        "error",
        "received",
        "relaying",
        "state",
        "steady",
        "was_buffered",
    )

    def __init__(
        self,
        reply: Reply,
        assembler: CompletionAssembler,
        *,
        n: int,
        timeout: Timeout,
        limits: Limits,
        strict: bool,
        on_bad_event: Literal["raise", "skip"],
        keep_body: bool,
    ) -> None:
        self._reply = reply
        self._assembler = assembler
        self._timeout = timeout
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self.body = reply.body
        self.decoder = ChunkDecoder(
            limits=limits, strict=strict, on_bad_event=on_bad_event, n=n, keep_body=keep_body
        )
        self.state = State.SNIFFING
        self.steady = False
        self.error: APIError | None = None
        self.was_buffered = False
        self.relaying = False
        self.received = b""
        # The bytes that arrived in SNIFFING and, in WHOLE, all bytes of the body.
        self._sniffed: list[bytes] = []
        self._body_over = False
        self._lost: StreamError | None = None  # the error that broke the body off
        self._awaiting_content = False  # whether no content of the last read has been decoded so far
        self._size = 0  # number of bytes received
        self._times = ReadTimes()
        self._content = Content()
        self._read_at = 0.0
        self._slices = 0
        self._turn_began = 0.0

    # Reading

    def finish_read(self) -> Sequence[ChatCompletionChunk]:
        """Return the chunks that have arrived since `body.start_read`; none if `next_chunks` has to continue.

        Each of a hundred streams takes this path for each of its tokens. It does the same as `_take` for a usual small
        read, without the steps that only other reads need.
        """
        body = self.body
        data = body.finish_read()
        size = len(data)
        if size > _ONE_GO or not data:
            return self._take(data) if data else ()
        self._size += size
        self._read_at = body.read_at
        if self.relaying:
            self.received = data
        decoder = self.decoder
        try:
            chunks = decoder.feed(data)
        except StreamError:
            self.steady = False
            return ()  # `next_chunks` raises the error
        # The first chunk nearly always has text; `Content` checks for all other content.
        if (chunks and (choices := chunks[0].choices) and choices[0].delta.content) or self._content.is_in(
            chunks
        ):
            self._times.content_at.append(self._read_at)
            body.waited = 0.0
            self.steady = decoder.idle
        else:
            # No content yet: `next_chunks` counts decoding time against the limit.
            self._awaiting_content = True
            self.steady = False
        return chunks

    async def next_chunks(self) -> Sequence[ChatCompletionChunk] | None:
        """Return the next chunks; None at the end of a whole stream.

        If bytes are relayed, this method returns after each read, even if the read had no chunk.

        Raises:
            APIError: The error that ended the stream, after everything received has been returned.
        """
        decoder, body = self.decoder, self.body
        while True:
            if self.error is not None:
                raise copy_of(self.error)
            if decoder.error is not None:
                raise copy_of(self.fail(decoder.error))
            chunks: Sequence[ChatCompletionChunk] = ()
            if decoder.pending:
                late = time.monotonic() - self._turn_began > _SECONDS_PER_TURN
                if late or self._slices >= _SLICES_PER_TURN:
                    self._slices = 0
                    await asyncio.sleep(0)
                    self._turn_began = time.monotonic()
                chunks = self.decode_slice()
            elif self.state is State.ENDED:
                return None
            elif decoder.done or self._body_over:
                self._judge()
                if not self._body_over:
                    await body.drain(self._limits)
            elif self._awaiting_content and body.overdue:
                # Bytes without content arrive so fast that no read waits. The timer only looks at waiting reads, so the limit
                # is enforced here.
                chunks = self._break_off(self._timed_out())
            else:
                try:
                    data = await body.read()
                except StreamError as error:
                    chunks = self._break_off(error)
                except TimeoutError:
                    chunks = self._break_off(self._timed_out())
                else:
                    chunks = self._take(data)
                    del data  # a traceback may show locals, and servers echo keys
            if chunks or self.received:
                return chunks

    def _take(self, data: bytes) -> Sequence[ChatCompletionChunk]:
        """Decode the bytes of a read, or the first slice of them; b"" is the end of the body."""
        self._read_at = self.body.read_at
        self._slices = 0
        self._size += len(data)
        self._awaiting_content = True
        if self.relaying:
            self.received = data
        if not data:
            self._body_over = True
            self.body.close()
        if self.state is State.SNIFFING:
            data = self._sniff(data)
        if self.state is State.WHOLE:
            return self._take_whole(data)
        if self.state is not State.STREAMING:
            return ()
        if self._body_over:
            return self._last(data)
        if len(data) > _ONE_GO or not self.decoder.idle:  # a few bytes may complete a large event
            self.decoder.push(data)
            return self.decode_slice()
        try:
            chunks = self.decoder.feed(data)
        except StreamError:
            return ()  # `next_chunks` raises the error
        return self._note_content(chunks)

    def decode_slice(self) -> Sequence[ChatCompletionChunk]:
        """Decode the next slice of the bytes that were read; return its chunks, if there are any."""
        self._slices += 1
        try:
            chunks = self.decoder.decode_slice()
        except StreamError:
            return ()  # `next_chunks` raises the error
        return self._note_content(chunks)

    def _note_content(self, chunks: Sequence[ChatCompletionChunk]) -> Sequence[ChatCompletionChunk]:
        """Check whether chunks have content, which alone is a sign of life and restarts the limit; return the chunks."""
        if self._awaiting_content:
            body = self.body
            # The first chunk nearly always has text, as in `finish_read`.
            if (
                chunks and (choices := chunks[0].choices) and choices[0].delta.content
            ) or self._content.is_in(chunks):
                self._awaiting_content = False
                self._times.content_at.append(self._read_at)
                body.allow(self._timeout.idle)
            else:
                # Until content arrives, decoding counts as waiting: otherwise a flood of bytes without content would never
                # reach the limit.
                now = self._loop.time()
                body.waited += now - self._read_at
                self._read_at = now
        self.steady = not self._awaiting_content and self.decoder.idle and not self._body_over
        return chunks

    # Bodies that may not be event streams

    def _sniff(self, data: bytes) -> bytes:
        """Find out from the first bytes what the body is; return b"" until that is clear, and then all these bytes."""
        self._sniffed.append(data)
        self.received = b""  # nothing is relayed before it is clear what the body is
        content_type = self._reply.content_type
        data = b"".join(self._sniffed)
        kind = what_is(data, content_type, final=self._body_over)
        if kind is None:
            return b""
        self._sniffed.clear()
        if isinstance(kind, StreamProtocolError):
            self.fail(kind)
        elif kind == "json":
            self.state = State.WHOLE
            self.was_buffered = True
        else:
            self.state = State.STREAMING
            self.received = data if self.relaying else b""
            if not is_event_stream(content_type):
                self._reply.note_content_type()
        return data

    def _take_whole(self, data: bytes) -> Sequence[ChatCompletionChunk]:
        """Collect a JSON reply; at its end turn a completion into one chunk."""
        self._sniffed.append(data)
        self.received = b""
        limit = self._limits.body_bytes
        if limit is not None and self._size > limit:
            self.fail(StreamLimitError(f"the reply has more than body_bytes={limit} bytes"))
            return ()
        if not self._body_over:
            return ()
        content = b"".join(self._sniffed)
        self._sniffed.clear()
        self._read_at = self._loop.time()
        self.received = content if self.relaying else b""
        error: APIError
        try:
            completion = decode_completion(content, max_values=self._limits.values)
            if self.decoder.keep_body:
                completion.receive(content, decode_body)
            chunks = [as_chunk(completion)]
            self.decoder.check(chunks[0])
        except StreamError as refused:
            error = refused
        except TooManyValuesError as refused:
            error = StreamLimitError(f"the reply has {refused}")
        except APIResponseValidationError as invalid:
            found = identify_reply(content)
            if isinstance(found, ErrorBody):
                error = server_error(found, "in place of a stream")
            elif isinstance(found, OtherAPI):
                error = StreamProtocolError(f"the reply belongs to {found.name}, not to chat completions")
            else:
                error = invalid
        else:
            return self._note_content(chunks)
        self.fail(error, content[:_HEAD])
        return ()

    # The end of the stream

    def _last(self, data: bytes) -> Sequence[ChatCompletionChunk]:
        """Decode the last bytes of the body; an event that lacks only its blank line counts."""
        self.decoder.push(data)
        self.decoder.finish()
        return self.decode_slice()

    def _break_off(self, error: StreamError) -> Sequence[ChatCompletionChunk]:
        """End the body because of an error; return the chunks of what arrived before, and keep the error."""
        self._lost = error.with_traceback(None)
        self._body_over = True
        self.steady = False
        self.body.close()
        return self._last(b"")  # bytes in `_sniffed` are dropped: they are too few to hold a chunk

    def _timed_out(self) -> StreamTimeoutError:
        total = self.body.expired == "total"
        phase: Phase = "total" if total else "idle" if self._times.content_at else "first_token"
        limit = self._timeout.total if total else self.body.limit
        what = "the stream did not end" if total else "no content came"
        return StreamTimeoutError(
            f"{what} within {limit} s (Timeout.{phase}); everything received is in .partial", phase=phase
        )

    def _judge(self) -> None:
        """Decide whether the completion is whole. Everything received must have been assembled."""
        assembler, done = self._assembler, self.decoder.done
        assembler.end(done=done)
        if assembler.complete or (self.was_buffered and assembler.seen):
            # If the completion is whole, a lost connection or an expired limit is no error.
            self.state = State.ENDED
            self.steady = False
            self._times.ended_at = self._loop.time()
            self._tell_end("completed")
        elif self._lost is not None:
            self.fail(self._lost)
        else:
            self.fail(premature_end(self.decoder, assembler, self._size), close=False)

    def fail(self, error: APIError, content: bytes = b"", *, close: bool = True) -> APIError:
        """End the stream with an error, and set the error's attributes; return the error that ended the stream first."""
        if self.error is not None:
            return self.error
        self._end(State.FAILED, error, content)
        if isinstance(error, (StreamProtocolError, StreamLimitError)):
            self.body.discard()
        elif close:
            self.body.close()
        self._tell_end("failed", error)
        return error

    def _end(self, state: State, error: APIError, content: bytes = b"") -> None:
        self.state = state
        self.steady = False
        if isinstance(error, StreamError):
            # `partial` does not get the headers, which may echo a key. `error.response` has the headers, with keys removed.
            error.partial = self._describe(self._assembler.completion)
            error.events = self.decoder.events
            error.bytes_received = self._size
        self._reply.describe(error, content)
        # The traceback is removed: its frames hold received bytes, a traceback may show locals, and servers echo keys.
        self.error = error.with_traceback(None)
        error.__context__ = None
        self._times.ended_at = self._loop.time()

    def close(self) -> None:
        """Close the stream; do nothing if it has ended."""
        if self.open:
            what = "this stream was closed before its end; read it before you leave its block or close it"
            error = StreamInterruptedError(f"{what}; what came is in .partial", phase="body")
            self._end(State.LEFT, error)
            self.body.close()
            self._tell_end("left", error)
        self.body.close()

    def abandon(self) -> None:
        """Close the connection from a finaliser, which may run in any thread."""
        self.body.abandon()
        self._tell_end("left")

    def _tell_end(self, outcome: Outcome, error: APIError | None = None) -> None:
        """Inform hooks and the log, if there are any, and end the turn of the call."""
        reply = self._reply
        if reply.turn is not None:
            reply.turn.finish(error, succeeded=outcome == "completed", usage=self._assembler.usage)
        if reply.trace is not None:
            completion = getattr(error, "partial", None) or self.completion()
            timing = self.timing
            reply.end(
                error,
                completion=completion,
                outcome=outcome,
                first_token=timing.first_token,
                gaps=timing.gaps,
            )

    # Facts about the stream

    @property
    def ended(self) -> bool:
        """Whether the stream was read to its end and nothing is missing."""
        return self.state is State.ENDED

    @property
    def has_content(self) -> bool:
        """Whether any content has come."""
        return bool(self._times.content_at)

    @property
    def open(self) -> bool:
        """Whether more chunks may follow."""
        return self.state is not State.ENDED and self.error is None

    def completion(self) -> ChatCompletion:
        """Return the completion as far as it was assembled, with the headers and what is known from them."""
        completion = self._describe(self._assembler.completion)
        completion.receive(None, None, self._reply.header_pairs)
        return completion

    def _describe(self, completion: ChatCompletion) -> ChatCompletion:
        completion.request_id = self._reply.request_id
        completion.rate_limits = self._reply.rate_limits
        completion.attempts = self._reply.attempts
        return completion

    @property
    def timing(self) -> Timing:
        """Durations of the call and its parts."""
        reply = self._reply
        return self._times.timing(reply.started, reply.queued, reply.sent, reply.received, self._loop.time())


def premature_end(decoder: ChunkDecoder, assembler: CompletionAssembler, size: int) -> StreamError:
    """Return the error of a stream that ended without a lost connection, but too early.

    Args:
        decoder: The decoder of the stream.
        assembler: The assembler of the stream.
        size: Number of bytes received.
    """
    unanswered = decoder.unanswered
    if unanswered is not None:
        return unanswered
    if size == 0:
        what = "empty body: it ended before the first event"
    elif not assembler.seen:
        what = "[DONE] before any chunk" if decoder.done else "the stream ended before the first event"
    elif decoder.done:
        what = "[DONE] came without a finish_reason for every choice"
    else:
        what = "the stream ended with neither [DONE] nor a finish_reason for every choice"
    words = f"; the last text of the server is {decoder.last_words!r}" if decoder.last_words else ""
    return StreamTruncatedError(f"{what}; everything received is in .partial{words}")
