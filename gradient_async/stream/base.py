"""What every stream of chunks has: one cursor, several ways to read, everything assembled as it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from operator import length_hint
from types import TracebackType
from typing import Protocol, Self

from ..assembly import CompletionAssembler
from ..errors import APIError, StreamError, StreamLimitError
from ..events import EventBuilder
from ..types import ChatCompletion, ChatCompletionChunk, CompletionUsage, TextBatch
from .choices import Choices
from .lanes import Lane
from .views import ChoiceStream, CursorTextStream, EventStream, TextStream, text_of
from .waiting import Waiters

__all__ = ["ChunkSource", "ChunkStream"]


class ChunkSource(Protocol):
    """Where chunks come from."""

    @property
    def ended(self) -> bool:
        """Whether it ended well."""
        ...

    @property
    def open(self) -> bool:
        """Whether it has neither ended nor failed."""
        ...

    async def advance(self) -> Sequence[ChatCompletionChunk]:
        """Return the next chunks, once those before are assembled; none at the end."""
        ...

    def fail(self, error: APIError) -> Exception:
        """End it with an error."""
        ...

    def completion(self) -> ChatCompletion:
        """Return what has been assembled."""
        ...

    def close(self) -> None:
        """Give it up."""
        ...


class ChunkStream:
    """A completion as it is generated: an async iterator of chunks.

    Args:
        source: Where they come from.
        assembler: What they are added to, once they have been read.
        buffered: Most that a reader who lags may leave queued, in characters.
    """

    def __init__(self, source: ChunkSource, assembler: CompletionAssembler, *, buffered: int) -> None:
        self._chunks = source
        self._assembler = assembler
        self._buffered = buffered
        self._builder: EventBuilder | None = None
        self.refused = False  # whether a chunk could not be assembled
        self._relayed = True  # whether every byte received was given out as such
        # The chunks brought last. Those behind the cursor have been read, by whichever way, and the first
        # `_assembled` of them are in the assembler.
        self._assembled = 0
        self._batch: Sequence[ChatCompletionChunk]
        self._cursor: Iterator[object]
        self._ready: Iterator[ChatCompletionChunk]  # moves the cursor
        # Moves the cursor, too: the text of choice 0 in each chunk. Left open until somebody reads text.
        self._texts: Iterator[str] | None
        self._place([])
        # One task reads at a time, for all.
        self._reading = False
        self._waiters = Waiters()
        # Once a choice has a reader of its own, chunks go to lanes, the cursor's own among them.
        self._choices: Choices | None = None
        self._main_used = False

    # The cursor

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        for chunk in self._ready:
            return chunk
        return await self.next_chunk()

    async def next_chunk(self) -> ChatCompletionChunk:
        """Return the next chunk when none is ready."""
        self._main_used = True
        self._make_chunks()
        for chunk in self._ready:
            return chunk
        while True:
            if self._choices is not None:
                main = self._choices.open_main()
                if main:
                    return main.take()
                if main.overflowed:
                    raise self.overflow("the reader of the whole stream")
            else:
                main = None
            if not await self.pump(main):
                raise StopAsyncIteration
            self._make_chunks()
            for chunk in self._ready:
                return chunk

    async def next_text(self) -> str:
        """Return the text of choice 0 in the next chunk when none is ready; "" if it may be ready now."""
        if self._choices is not None:
            return text_of(await self.next_chunk())
        self._main_used = True
        if not await self.pump():
            raise StopAsyncIteration
        return ""

    async def pump(self, lane: Lane | None = None) -> bool:
        """Read once for all who read; return False at the end.

        Args:
            lane: Where the chunks come that the caller waits for; None if any will do.

        Raises:
            APIError: How the stream ended, if badly.
        """
        if self._reading:
            await self._waiters.wait(lane)
            return True
        self._reading = True
        self._relayed = False
        batch: Sequence[ChatCompletionChunk] = ()
        try:
            self.settle()
            batch = await self._chunks.advance()
        finally:
            self._reading = False
            if not batch:
                # It is over; or this task is cancelled, and one of those who wait takes over.
                self._waiters.wake_all()
        if self._choices is None:
            self._place(batch)
        else:
            self._receive(batch)
        if self._waiters.all and batch:
            self._waiters.wake_loose()
            if lane is None or lane or lane.overflowed:
                self._waiters.wake_one()  # the caller has what it wants: somebody else reads on
        return bool(batch)

    def _place(self, batch: Sequence[ChatCompletionChunk]) -> None:
        """Put the cursor before these chunks."""
        self._assembled = 0
        self._batch = batch
        if type(batch) is TextBatch and batch.choice == 0 and batch.field == "content":
            # Chunks are made of the texts once somebody asks for chunks.
            self._cursor = self._texts = iter(batch.texts)
            self._ready = iter(())
        else:
            self._cursor = self._ready = iter(batch)
            self._texts = None

    @property
    def ready_texts(self) -> Iterator[str]:
        """The text of choice 0 in each of the chunks that are ready; moves the cursor."""
        if self._texts is None:
            self._texts = map(text_of, self._ready)
        return self._texts

    def _make_chunks(self) -> None:
        """Make the chunks of a run that was being read as text, from the cursor on."""
        if self._cursor is not self._ready:
            self.settle()
            self._cursor = self._ready = iter(self._batch[self._assembled :])
            self._texts = None

    def _receive(self, batch: Sequence[ChatCompletionChunk]) -> None:
        self._place(batch)
        if self._choices is not None:
            self._pass_all()
            self._choices.put(batch)

    def settle(self) -> None:
        """Assemble what the cursor has passed."""
        batch, start = self._batch, self._assembled
        passed = len(batch) - length_hint(self._cursor)
        if passed <= start:
            return
        self._assembled = passed
        rest: Iterable[ChatCompletionChunk] = ()
        try:
            if passed - start == 1:
                self._assembler.add(batch[start])
            elif type(batch) is TextBatch:
                self._assembler.extend(batch[start:passed])
            else:
                rest = iter(batch[start:passed])
                self._assembler.extend(rest)
        except StreamError as error:
            self.refused = True
            # Those behind it have been read as well: what was received is in `.partial`.
            for chunk in rest:
                with contextlib.suppress(StreamError):
                    self._assembler.add(chunk)
            self._chunks.fail(error)  # the next read raises it

    def _take_rest(self) -> list[ChatCompletionChunk]:
        """Move the cursor past what is ready; return that, assembled."""
        self._make_chunks()
        rest = list(self._ready)
        self.settle()
        return rest

    def _pass_all(self) -> None:
        """Move the cursor past what is ready, and assemble it."""
        self._cursor = self._ready = iter(())
        self._texts = None
        self.settle()

    # Ways to read

    @property
    def text(self) -> TextStream:
        """The text of choice 0, piece by piece; shares the cursor."""
        return CursorTextStream(self)

    def events(self) -> EventStream:
        """The stream as typed events; shares the cursor."""
        if self._builder is None:
            self.settle()
            self._builder = EventBuilder(self._assembler)
        return EventStream(self, self._builder)

    def choice(self, index: int) -> ChoiceStream:
        """The chunks of one choice; several tasks may read several choices.

        Whoever lacks data reads for all. A choice asked for late begins with one chunk of what came
        since the first choice was asked for; the same index again goes on where its reader stopped.

        Args:
            index: Which choice, from 0. One that never comes ends empty.
        """
        if self._choices is None:
            self._make_chunks()
            self.settle()
            rest = list(self._ready)  # goes to the lanes
            self._choices = Choices(self._assembler, self._buffered, main=self._main_used)
            lane = self._choices.open(index)
            self._receive(rest)
        else:
            lane = self._choices.open(index)
        return ChoiceStream(self, index, lane)

    def overflow(self, who: str) -> StreamLimitError:
        """Make the error of a reader that fell too far behind."""
        return StreamLimitError(
            f"{who} fell behind by more than buffered_bytes={self._buffered}; "
            "read faster, or raise Limits(buffered_bytes=...)",
            partial=self.snapshot,
        )

    # The whole

    @property
    def snapshot(self) -> ChatCompletion:
        """The completion as far as it has been read; a new object each time."""
        self.settle()
        return self._chunks.completion()

    async def completion(self) -> ChatCompletion:
        """Read to the end; return the whole completion.

        Raises:
            StreamError: If the stream did not end as it should; ``.partial`` has what came.
        """
        self._pass_all()
        while await self.pump():
            self._pass_all()
        return self._chunks.completion()

    async def get_final_completion(self) -> ChatCompletion:
        """The same as `completion`."""
        return await self.completion()

    async def until_done(self) -> Self:
        """Read to the end; return the stream itself.

        Raises:
            StreamError: If the stream did not end as it should.
        """
        await self.completion()
        return self

    # What is known of it

    @property
    def id(self) -> str:
        """The completion's id, "" before it is known."""
        self.settle()
        return self._assembler.id

    @property
    def usage(self) -> CompletionUsage | None:
        """What the request took, None before it is told."""
        self.settle()
        return self._assembler.usage

    @property
    def completed(self) -> bool:
        """Whether it was read to its end and nothing is missing."""
        return self._chunks.ended

    # Leaving

    def _leave(self) -> None:
        self.settle()  # what was read is told, with how it ended
        self._chunks.close()

    async def aclose(self) -> None:
        """Give up what is left; the connection is closed at once unless the stream was read to its end."""
        self._leave()

    async def close(self) -> None:
        """The same as `aclose`."""
        self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
