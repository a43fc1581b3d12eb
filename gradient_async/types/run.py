"""Chunks that are all alike but for their text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, overload

from .replies import ChatCompletionChunk

__all__ = ["Run"]


class Run(Sequence[ChatCompletionChunk]):
    """Chunks that differ in their text alone, made when they are asked for.

    Args:
        texts: The text of each.
        field: What of the delta it is.
        choice: Which choice it is of, by its index.
        make: Makes the chunks of their texts.
    """

    __slots__ = ("_make", "choice", "field", "texts")

    def __init__(
        self,
        texts: list[str],
        *,
        field: Literal["content", "reasoning_content"],
        choice: int,
        make: Callable[[Iterable[str]], list[ChatCompletionChunk]],
    ) -> None:
        self.texts = texts
        self.field: Literal["content", "reasoning_content"] = field
        self.choice = choice
        self._make = make

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[ChatCompletionChunk]:
        return iter(self._make(self.texts))

    @overload
    def __getitem__(self, index: int) -> ChatCompletionChunk: ...
    @overload
    def __getitem__(self, index: slice) -> Run: ...
    def __getitem__(self, index: int | slice) -> ChatCompletionChunk | Run:
        if isinstance(index, slice):
            return Run(self.texts[index], field=self.field, choice=self.choice, make=self._make)
        return self._make((self.texts[index],))[0]
