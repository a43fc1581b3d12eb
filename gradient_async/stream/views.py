"""Ways to read one stream: text, events, bytes, one choice.

Text, events and bytes share the cursor of the stream they belong to; each choice has one of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ..events import ChatCompletionStreamEvent, EventBuilder
from ..types import ChatCompletionChunk
from .lanes import Lane

if TYPE_CHECKING:
    from .base import ChunkStream
    from .core import ChatCompletionStream

__all__ = ["ChoiceStream", "CursorTextStream", "EventStream", "RawStream", "TextStream", "text_of"]


def text_of(chunk: ChatCompletionChunk, index: int = 0) -> str:
    """Return the text that a chunk adds to a choice; "" if none."""
    choices = chunk.choices
    if len(choices) == 1 and choices[0].index == index:
        return choices[0].delta.content or ""
    return "".join(choice.delta.content or "" for choice in choices if choice.index == index)


class TextStream:
    """The text of one choice, piece by piece."""

    __slots__ = ("_index", "_stream")

    def __init__(self, stream: AsyncIterator[ChatCompletionChunk], index: int = 0) -> None:
        self._stream = stream
        self._index = index

    def __aiter__(self) -> TextStream:
        return self

    async def __anext__(self) -> str:
        while True:
            text = text_of(await self._stream.__anext__(), self._index)
            if text:
                return text


class CursorTextStream(TextStream):
    """The text of choice 0, by the cursor of the stream it belongs to."""

    __slots__ = ("_cursor",)

    def __init__(self, stream: ChunkStream) -> None:
        super().__init__(stream)
        self._cursor = stream

    async def __anext__(self) -> str:
        stream = self._cursor
        while True:
            for text in stream.ready_texts:
                if text:
                    return text
            text = await stream.next_text()
            if text:
                return text


class EventStream:
    """The stream as typed events.

    Events of a chunk that was not read to its last event stay with this iterator.
    """

    __slots__ = ("_builder", "_ended", "_events", "_stream")

    def __init__(self, stream: ChunkStream, builder: EventBuilder) -> None:
        self._stream = stream
        self._builder = builder
        self._events: deque[ChatCompletionStreamEvent] = deque()
        self._ended = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> ChatCompletionStreamEvent:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            try:
                chunk = await self._stream.__anext__()
            except StopAsyncIteration:
                self._ended = True
                self._events.extend(self._builder.end())
            else:
                self._stream.settle()
                if not self._stream.refused:  # or the next read tells why
                    self._events.extend(self._builder.add(chunk))
        return self._events.popleft()


class RawStream:
    """The bytes of the stream, as received."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ChatCompletionStream) -> None:
        self._stream = stream

    def __aiter__(self) -> RawStream:
        return self

    async def __anext__(self) -> bytes:
        return await self._stream.next_raw()


class ChoiceStream:
    """The chunks of one choice; several tasks may read several choices.

    Attributes:
        index: Which choice.
    """

    __slots__ = ("_lane", "_stream", "index")

    def __init__(self, stream: ChunkStream, index: int, lane: Lane) -> None:
        self._stream = stream
        self._lane = lane
        self.index = index

    @property
    def text(self) -> TextStream:
        """The text of this choice, piece by piece; shares the cursor of this reader."""
        return TextStream(self, self.index)

    def __aiter__(self) -> ChoiceStream:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        lane = self._lane
        while not lane:
            if lane.overflowed:
                raise self._stream.overflow(f"the reader of choice {self.index}")
            if not await self._stream.pump(lane):
                raise StopAsyncIteration
        return lane.take()
