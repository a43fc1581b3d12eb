"""Queues of chunks for several readers of one stream, which read at different speeds, and the tasks that wait for chunks.

Until a single choice is asked for, a stream has one cursor and no queue. From then on each choice that was asked for has
its own queue, and so has the stream itself if it is read as a whole. A reader whose queue is empty reads the socket for
all readers, and the others wait. A choice that is not asked for is only assembled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

import msgspec

from ..assembly import JOIN, CompletionAssembler, Position, kept_size, position_of, since, utf8_size
from ..types import ChatCompletionChunk, ChoiceDelta, ChunkChoice
from ..types.messages import REPLY_FIELDS

# From this number of queued chunks on, deltas of text are merged. A reader that is fast enough gets every chunk by itself.
_MERGE_FROM = 64
# The size of a queued chunk without its text, in bytes: about its size in memory.
_SIZE_OF_CHUNK = 500

_PLAIN = ChoiceDelta()
# Fields of which the first value counts. The merged chunk keeps those of its first chunk.
_FIRST_COUNTS = ("id", "model", "created", "system_fingerprint", "service_tier")


class ChunkQueue:
    """A queue of chunks for one reader.

    Args:
        limit: Maximum size of all chunks together, in bytes.

    Attributes:
        overflowed: Whether the limit was exceeded; then the queue is empty, and takes no more chunks.
        waiters: Futures of the tasks that wait for a chunk.
    """

    __slots__ = ("_limit", "_merged", "_queue", "_size", "overflowed", "waiters")

    def __init__(self, limit: int) -> None:
        self._queue: deque[ChatCompletionChunk] = deque()
        # Pieces of text to merge into the last chunk of the queue. They are joined when that chunk is taken, or when a chunk
        # that can't be merged comes after it.
        self._merged: list[str] = []
        self._size = 0
        self._limit = limit
        self.overflowed = False
        self.waiters: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, chunk: ChatCompletionChunk) -> None:
        """Add a chunk; if many chunks wait, merge its text into the last one."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self.overflowed:
            return
        self._size += _size_of(chunk)
        if len(self._queue) >= _MERGE_FROM and self._merge(chunk):
            return
        self._flush()
        self._size += _SIZE_OF_CHUNK
        if self._size > self._limit:
            self.overflowed = True
            self._queue.clear()
            return
        self._queue.append(chunk)

    def _merge(self, chunk: ChatCompletionChunk) -> bool:
        last = self._queue[-1]
        text = _plain_text(chunk)
        if text is None or _plain_text(last) is None or last.choices[0].index != chunk.choices[0].index:
            return False
        if any(getattr(chunk, name) and not getattr(last, name) for name in _FIRST_COUNTS):
            return False
        self._merged.append(text)
        return True

    def take(self) -> ChatCompletionChunk:
        """Return the oldest chunk."""
        if len(self._queue) == 1:
            self._flush()
        chunk = self._queue.popleft()
        self._size -= _size_of(chunk) + _SIZE_OF_CHUNK
        return chunk

    def _flush(self) -> None:
        """Replace the last chunk by a copy with the merged text; others may hold the original."""
        if not self._merged:
            return
        last = self._queue[-1]
        choice = last.choices[0]
        text = (choice.delta.content or "") + "".join(self._merged)
        self._merged = []
        self._queue[-1] = msgspec.structs.replace(
            last, choices=[ChunkChoice(index=choice.index, delta=ChoiceDelta(content=text))]
        )


def _plain_text(chunk: ChatCompletionChunk) -> str | None:
    """Return the text of a chunk that holds only text of one choice; None for any other chunk."""
    if len(chunk.choices) != 1 or chunk.usage is not None or chunk.body_size:
        return None
    if any(getattr(chunk, name) is not None for name in REPLY_FIELDS):
        return None
    choice = chunk.choices[0]
    text = choice.delta.content
    if text is None or choice.finish_reason is not None or choice.logprobs is not None:
        return None
    return text if msgspec.structs.replace(choice.delta, content=None) == _PLAIN else None


def _size_of(chunk: ChatCompletionChunk) -> int:
    size = chunk.body_size
    for choice in chunk.choices:
        delta = choice.delta
        for text in (delta.content, delta.reasoning_content, delta.refusal):
            size += utf8_size(text) if text else 0
        if delta.function_call is not None:
            size += utf8_size(delta.function_call.arguments or "")
        for call in delta.tool_calls or ():
            size += utf8_size(call.function.arguments or "")
            for value in (call.custom, call.extra_content):
                size += kept_size(value) if value is not None else 0
        for name in JOIN:
            value = getattr(delta, name)
            size += kept_size(value) if value is not None else 0
        if choice.logprobs is not None:
            entries = (choice.logprobs.content or []) + (choice.logprobs.refusal or [])
            size += _SIZE_OF_CHUNK * sum(1 + len(entry.top_logprobs) for entry in entries)
    for name in REPLY_FIELDS:
        value = getattr(chunk, name)
        size += kept_size(value) if value is not None else 0
    return size


class ChoiceQueues:
    """The queues of a stream, made when the first choice is asked for.

    Args:
        assembler: The assembler, to which all chunks before that moment were added.
        limit: Maximum size of one queue, in bytes.
        main: Whether the stream itself is read as well, so that it needs a queue of its own.

    Attributes:
        main: The queue for all chunks; None if the stream is not read as a whole.
    """

    __slots__ = ("_assembler", "_last", "_limit", "_positions", "_queues", "main")

    def __init__(self, assembler: CompletionAssembler, limit: int, *, main: bool) -> None:
        self._assembler = assembler
        self._limit = limit
        self._queues: dict[int, ChunkQueue] = {}
        self._positions = {index: position_of(state) for index, state in assembler.choices.items()}
        self._last = ChatCompletionChunk()
        self.main: ChunkQueue | None = ChunkQueue(limit) if main else None

    def open_main(self) -> ChunkQueue:
        """Return the queue for all chunks."""
        if self.main is None:
            self.main = ChunkQueue(self._limit)
        return self.main

    def open(self, index: int) -> ChunkQueue:
        """Return the queue of a choice; a new queue begins with what the choice received before it was asked for.

        Args:
            index: Index of the choice.
        """
        queue = self._queues.get(index)
        if queue is None:
            queue = self._queues[index] = ChunkQueue(self._limit)
            state = self._assembler.choices.get(index)
            missed = None if state is None else since(state, self._positions.get(index, Position()))
            if missed is not None:
                queue.put(msgspec.structs.replace(self._last, choices=[missed], usage=None))
        return queue

    def put(self, chunks: Iterable[ChatCompletionChunk]) -> None:
        """Put each chunk into the queues of its choices, and into the queue for all chunks."""
        for chunk in chunks:
            self._last = chunk
            if self.main is not None:
                self.main.put(chunk)
            for choice in chunk.choices:
                queue = self._queues.get(choice.index)
                if queue is None:
                    continue
                alone = chunk
                if len(chunk.choices) > 1:
                    alone = msgspec.structs.replace(chunk, choices=[choice], usage=None).receive_as(chunk)
                queue.put(alone)


class Waiters:
    """The tasks that wait while another task reads: for chunks in a queue, or for any chunk.

    A task with a queue is woken when a chunk is put into its queue. In addition, one task at a time is woken to make the next
    read. If each chunk woke all tasks, its cost would grow with the number of readers.

    Attributes:
        all: The futures of all tasks that wait, in the order in which they began to wait.
    """

    __slots__ = ("_unqueued", "all")

    def __init__(self) -> None:
        self.all: dict[asyncio.Future[None], None] = {}
        self._unqueued: list[asyncio.Future[None]] = []  # the futures of tasks without a queue

    async def wait(self, queue: ChunkQueue | None) -> None:
        """Wait until there may be a chunk for the caller, or until the caller has to make the next read.

        Args:
            queue: The queue in which the caller waits for chunks; None if it waits for any chunk.
        """
        waiter = asyncio.get_running_loop().create_future()
        self.all[waiter] = None
        if queue is None:
            self._unqueued.append(waiter)
        else:
            queue.waiters.add(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.wake_one()  # if this task was woken to make the next read, another task has to make it
            raise
        finally:
            del self.all[waiter]
            if queue is not None:
                queue.waiters.discard(waiter)

    def wake_one(self) -> None:
        """Wake the task that has waited longest."""
        for waiter in self.all:
            if not waiter.done():
                waiter.set_result(None)
                return

    def wake_unqueued(self) -> None:
        """Wake the tasks that wait for any chunk."""
        unqueued, self._unqueued = self._unqueued, []
        for waiter in unqueued:
            if not waiter.done():
                waiter.set_result(None)

    def wake_all(self) -> None:
        """Wake all tasks."""
        self._unqueued.clear()
        for waiter in self.all:
            if not waiter.done():
                waiter.set_result(None)
