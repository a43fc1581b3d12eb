"""Readers of single choices: each has a lane, and whoever lacks chunks reads for all."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..assembly import CompletionAssembler
from ..types import ChatCompletionChunk
from .lanes import Lane, Mark, catch_up, mark_of

__all__ = ["Choices"]


class Choices:
    """The lanes of a stream, from the moment that the first choice is asked for.

    Args:
        assembler: What everything before that moment was added to.
        limit: Most characters that one lane may hold.
        main: Whether the stream itself is being read as well, and so needs a lane of its own.

    Attributes:
        main: The lane of who reads the whole stream, or None if nobody does.
    """

    __slots__ = ("_assembler", "_lanes", "_last", "_limit", "_marks", "main")

    def __init__(self, assembler: CompletionAssembler, limit: int, *, main: bool) -> None:
        self._assembler = assembler
        self._limit = limit
        self._lanes: dict[int, Lane] = {}
        self._marks = {index: mark_of(state) for index, state in assembler.choices.items()}
        self._last = ChatCompletionChunk()
        self.main: Lane | None = Lane(limit) if main else None

    def open_main(self) -> Lane:
        """Return the lane of who reads the whole stream."""
        if self.main is None:
            self.main = Lane(self._limit)
        return self.main

    def open(self, index: int) -> Lane:
        """Return the lane of a choice; a new one begins with what came before it was asked for.

        Args:
            index: Which choice.
        """
        lane = self._lanes.get(index)
        if lane is None:
            lane = self._lanes[index] = Lane(self._limit)
            state = self._assembler.choices.get(index)
            missed = None if state is None else catch_up(state, self._marks.get(index, Mark()), self._last)
            if missed is not None:
                lane.put(missed)
        return lane

    def put(self, chunks: Iterable[ChatCompletionChunk]) -> None:
        """Put chunks into the lanes of those who want them."""
        for chunk in chunks:
            self._last = chunk
            if self.main is not None:
                self.main.put(chunk)
            for choice in chunk.choices:
                lane = self._lanes.get(choice.index)
                if lane is None:
                    continue
                alone = len(chunk.choices) == 1
                lane.put(chunk if alone else msgspec.structs.replace(chunk, choices=[choice], usage=None))
