"""How a stream ends: whole, short, broken off, late, or given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..assembly import CompletionAssembler
from ..config import Timeout
from ..decoding import ChunkDecoder
from ..errors import (
    APIError,
    Phase,
    StreamError,
    StreamInterruptedError,
    StreamLimitError,
    StreamProtocolError,
    StreamTimeoutError,
    StreamTruncatedError,
)
from ..hooks import Outcome
from ..types import ChatCompletion
from .timing import Pace, Timing

if TYPE_CHECKING:
    from ..session.reply import Reply

__all__ = ["Ending"]


class Ending:
    """Judges how a stream ended, and gives its connection back or up.

    Args:
        reply: What the session returned.
        assembler: Where the stream's chunks are added.
        decoder: Decodes the body.
        timeout: Time limits.

    Attributes:
        decoder: Decodes the body.
        error: How the stream ended, if badly.
        ended: Whether it ended well.
        was_buffered: Whether the server sent a whole completion in place of a stream.
    """

    __slots__ = (
        "_assembler",
        "_body",
        "_broken",
        "_bytes",
        "_loop",
        "_pace",
        "_reply",
        "_timeout",
        "decoder",
        "ended",
        "error",
        "was_buffered",
    )

    def __init__(
        self, reply: Reply, assembler: CompletionAssembler, decoder: ChunkDecoder, *, timeout: Timeout
    ) -> None:
        self._reply = reply
        self._body = reply.body
        self._assembler = assembler
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self.decoder = decoder
        self.error: APIError | None = None
        self.ended = False
        self.was_buffered = False
        self._broken: StreamError | None = None  # what ended the body before its time
        self._bytes = 0
        self._pace = Pace()

    def _timed_out(self) -> StreamTimeoutError:
        total = self._body.expired == "total"
        phase: Phase = "total" if total else "idle" if self._pace.content_at else "first_token"
        limit = self._timeout.total if total else self._body.limit
        what = "the stream did not end" if total else "no content came"
        return StreamTimeoutError(
            f"{what} within {limit} s (Timeout.{phase}); what came before is in .partial", phase=phase
        )

    def _conclude(self) -> None:
        """Judge whether the completion is whole: everything received has been assembled by now."""
        assembler, done = self._assembler, self.decoder.done
        assembler.end(done=done)
        if assembler.complete or (self.was_buffered and assembler.seen):
            # A connection lost once all is there costs only the connection.
            self.ended = True
            self._pace.ended_at = self._loop.time()
            self._tell_end("completed")
        elif self._broken is not None:
            self.fail(self._broken)
        else:
            if self._bytes == 0:
                what = "empty body: it ended before the first event"
            elif not assembler.seen:
                what = "[DONE] before any chunk" if done else "the stream ended before the first event"
            elif done:
                what = "[DONE] came without a finish_reason for every choice"
            else:
                what = "the stream ended with neither [DONE] nor a finish_reason for every choice"
            self.fail(StreamTruncatedError(f"{what}; what came is in .partial"), close=False)

    def fail(
        self, error: APIError, content: bytes = b"", *, close: bool = True, outcome: Outcome = "failed"
    ) -> APIError:
        """End the stream with an error; return it, with everything filled in that is known."""
        if self.error is not None:
            return self.error
        reply = self._reply
        error.response = reply.info(content)
        error.request = reply.request
        error.request_id = error.request_id or reply.request_id
        error.rate_limits = reply.rate_limits
        error.attempts = reply.attempts
        error.elapsed = self._loop.time() - reply.started
        if isinstance(error, StreamError):
            error.partial = self.completion()
            error.events = self.decoder.events
            error.bytes_received = self._bytes
        reply.redact(error)
        # Without the frames that hold what came: a traceback may show locals, and servers echo keys.
        self.error = error.with_traceback(None)
        error.__context__ = None
        self._pace.ended_at = self._loop.time()
        if isinstance(error, (StreamProtocolError, StreamLimitError)):
            self._body.discard()
        elif close:
            self._body.close()
        self._tell_end(outcome, error)
        return error

    def close(self) -> None:
        """Give the stream up; harmless once it has ended."""
        if self.open:
            left = StreamInterruptedError("this stream was closed before its end", phase="body")
            self.fail(left, outcome="left")
        self._body.close()

    def abandon(self) -> None:
        """Give the connection up from a finaliser, in whatever thread that runs."""
        self._body.abandon()
        self._tell_end("left")

    def _tell_end(self, outcome: Outcome, error: APIError | None = None) -> None:
        """Tell hooks and the log, if anybody listens."""
        reply = self._reply
        if reply.trace is not None:
            completion = getattr(error, "partial", None) or self.completion()
            first_token = self.timing.first_token
            reply.end(error, completion=completion, outcome=outcome, first_token=first_token)

    @property
    def open(self) -> bool:
        """Whether it holds a connection that it has not done with."""
        return not self.ended and self.error is None

    def completion(self) -> ChatCompletion:
        """What has been assembled, with what the session knows of the reply."""
        completion = self._assembler.completion
        completion.request_id = self._reply.request_id
        completion.rate_limits = self._reply.rate_limits
        completion.attempts = self._reply.attempts
        return completion

    @property
    def timing(self) -> Timing:
        """How long things took."""
        reply = self._reply
        return self._pace.timing(reply.started, reply.queued, reply.sent, reply.received, self._loop.time())
