"""Where a stream's chunks come from: reads the body, and decodes it in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..assembly import CompletionAssembler
from ..config import Limits, Timeout
from ..decoding import ChunkDecoder, as_chunk, decode_completion, reply_error, server_error
from ..errors import APIError, APIResponseValidationError, StreamError, StreamLimitError, StreamProtocolError
from ..types import ChatCompletionChunk
from .ending import Ending
from .sniff import has_content, is_event_stream, what_is

if TYPE_CHECKING:
    from ..session.reply import Reply

__all__ = ["Source"]

# Slices of about 16 kB decoded in a row before the loop gets a turn, and seconds that they may take.
_SLICES_PER_TURN = 4
_SECONDS_PER_TURN = 0.005
# Bytes of a read that is decoded at once.
_SMALL = 4 * 1024
_HEAD = 200  # bytes of a body to show in an error


class Source(Ending):
    """Brings a stream's chunks; its end is judged once all of them are assembled.

    Args:
        reply: What the session returned.
        assembler: Where the reader of this source adds its chunks, before it asks for more.
        n: How many choices were asked for.
        timeout: Time limits.
        limits: Sizes a server may send.
        strict: Whether to refuse bad UTF-8.
        on_bad_event: What to do with events that are no chunks.

    Attributes:
        received: Bytes of the last read, for who relays them.
    """

    __slots__ = (
        "_eof",
        "_fresh",
        "_held",
        "_limits",
        "_pieces",
        "_read_at",
        "_slices",
        "_turn_at",
        "received",
    )  # fmt: skip

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
    ) -> None:
        decoder = ChunkDecoder(limits=limits, strict=strict, on_bad_event=on_bad_event, n=n)
        super().__init__(reply, assembler, decoder, timeout=timeout)
        self._limits = limits
        self.received = b""
        self._eof = False
        self._pieces: list[bytes] = []  # of a whole reply in place of a stream
        self._held: bytes | None = b""  # what came before it was clear what it is
        self._fresh = False  # the last read has brought no content so far
        self._slices = 0
        self._read_at = 0.0
        self._turn_at = 0.0

    def begin(self) -> asyncio.Future[None] | None:
        """Begin to wait for the next bytes, in the midst of a stream that goes well.

        Returns:
            What to await, and then to call `take`, or `stop` if that failed; None if `advance` is to be called.
        """
        if self._fresh or self._eof or self.error is not None or not self.decoder.idle:
            return None
        return self._body.begin()

    def take(self) -> Sequence[ChatCompletionChunk]:
        """Return the chunks of what has come since `begin`; none if `advance` has to go on."""
        body = self._body
        data = body.take()
        if len(data) > _SMALL:
            return self._take(data)
        if not data:
            return ()
        # The usual event, or a few. The same as `_take`, of which nothing but this is left here; who relays bytes does
        # not come this way.
        self._bytes += len(data)
        self._read_at = body.read_at
        try:
            chunks = self.decoder.feed(data)
        except StreamError:
            return ()  # `advance` raises it
        # Nearly always there is text; `has_content` knows what else counts.
        if (chunks and (choices := chunks[0].choices) and choices[0].delta.content) or has_content(chunks):
            self._pace.content_at.append(self._read_at)
            body.waited = 0.0
        else:
            self._fresh = True  # until there is content, `advance` sees to it that time does not stand still
        return chunks

    def stop(self, failure: Exception | None = None) -> None:
        """Give up what `begin` began.

        Args:
            failure: What waiting ended with, for `advance` to tell.
        """
        self._body.stop(failure)

    async def advance(self, *, one_read: bool = False) -> Sequence[ChatCompletionChunk]:
        """Return the next chunks; none at the end.

        Whatever was returned before has to be assembled by now.

        Args:
            one_read: Return after one read or one slice, even if it brought no chunk.

        Raises:
            APIError: How the stream ended, if badly; after everything received has been returned.
        """
        decoder, body = self.decoder, self._body
        while True:
            if self.error is not None:
                raise self.error
            if decoder.error is not None:
                raise self.fail(decoder.error)
            if decoder.pending:
                late = self._loop.time() - self._turn_at > _SECONDS_PER_TURN
                if late or self._slices >= _SLICES_PER_TURN:
                    self._slices = 0
                    await asyncio.sleep(0)  # one read may hold thousands of events
                    self._turn_at = self._loop.time()
                chunks = self.pull()
            elif self.ended:
                return []
            elif self._pieces and self._broken is None:
                chunks = await self._read_buffered()  # also where its first bytes told nothing before its end
            elif decoder.done or self._eof:
                self._conclude()
                if not self._eof:
                    await body.drain(self._limits)
                continue
            elif self._fresh and body.overdue:
                # Bytes without content come so fast that no read has to wait for them.
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
            if chunks or one_read:
                return chunks

    def _take(self, data: bytes) -> Sequence[ChatCompletionChunk]:
        """Decode what a read brought, or the beginning of it; return its chunks, which may be none."""
        self._read_at = self._body.read_at
        self._slices = 0
        if not data:
            self._eof = True
            self._body.close()
        self._bytes += len(data)
        self.received = data
        if self._held is not None:
            held = self._held = self._held + data
            kind = self._sniff()
            if kind != "stream":
                self.received = b""  # nothing is told of it yet
                self._fresh = True
                if kind == "json":
                    self._pieces.append(held)
                return []
            data = self.received = held
        if self._eof:
            return self._last(data)
        self._fresh = True
        if len(data) > _SMALL:
            self.decoder.push(data)
            return self.pull()
        try:
            chunks = self.decoder.feed(data)
        except StreamError:
            return []  # `advance` raises it
        return self._judge(chunks)

    def _sniff(self) -> str | None:
        """Tell what the body is by what has come of it; None if that is too little, or an error."""
        content_type = self._reply.headers.get("content-type", "")
        kind = what_is(self._held or b"", content_type, final=self._eof)
        if kind is None:
            return None
        self._held = None
        if isinstance(kind, StreamProtocolError):
            self.fail(kind)
            return None
        if kind == "stream" and not is_event_stream(content_type):
            self._reply.note_content_type()
        return kind

    def pull(self) -> Sequence[ChatCompletionChunk]:
        """Decode the next slice of what was read; return its chunks, which may be none."""
        self._slices += 1
        try:
            chunks = self.decoder.pull()
        except StreamError:
            return []  # `advance` raises it
        return self._judge(chunks)

    def _judge(self, chunks: Sequence[ChatCompletionChunk]) -> Sequence[ChatCompletionChunk]:
        """Return these chunks, after a look whether the server has shown a sign of life with them."""
        if self._fresh:
            if chunks and has_content(chunks):
                self._fresh = False
                self._pace.content_at.append(self._read_at)
                body = self._body
                body.waited = 0.0
                if body.limit != self._timeout.idle:
                    body.allow(self._timeout.idle)
            else:
                # Our own time counts as well, or a flood without content would never end.
                now = self._loop.time()
                self._body.waited += now - self._read_at
                self._read_at = now
        return chunks

    # What a server may send in place of a stream

    async def _read_buffered(self) -> Sequence[ChatCompletionChunk]:
        """Read a whole JSON reply; turn a completion into one chunk."""
        self.was_buffered = True
        pieces = self._pieces
        limit = self._limits.body_bytes
        while not self._eof:
            if limit is not None and self._bytes > limit:
                self.fail(StreamLimitError(f"the reply has more than body_bytes={limit} bytes"))
                return []
            try:
                more = await self._body.read()
            except StreamError as lost:
                return self._break_off(lost)
            except TimeoutError:
                return self._break_off(self._timed_out())
            self._eof = not more
            self._bytes += len(more)
            pieces.append(more)
        self._body.close()
        self._read_at = self._loop.time()
        content = b"".join(pieces)
        pieces.clear()
        self.received = content
        error: APIError
        said = reply_error(content)
        if said is not None:
            error = server_error(said, "in place of a stream")
        else:
            try:
                chunks = [as_chunk(decode_completion(content))]
                self.decoder.check(chunks[0])
            except (APIResponseValidationError, StreamError) as invalid:
                error = invalid
            else:
                return self._judge(chunks)
        self.fail(error, content[:_HEAD])
        return []

    # How it ends

    def _last(self, data: bytes = b"") -> Sequence[ChatCompletionChunk]:
        """The body has ended: an event that lacks only its blank line counts."""
        try:
            chunks = (self.decoder.feed(data) if data else []) + self.decoder.close()
        except StreamError:
            return []  # `advance` raises it
        return self._judge(chunks)

    def _break_off(self, error: StreamError) -> Sequence[ChatCompletionChunk]:
        self._broken = error
        self._eof = True
        self._body.close()
        held, self._held = self._held, None
        return self._last(held or b"")
