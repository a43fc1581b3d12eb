"""Chunks that are all alike but for their text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Literal, TypeAlias, overload

from .messages import ChatCompletionChunk

Field: TypeAlias = Literal["content", "reasoning_content", "arguments"]
Make: TypeAlias = Callable[[Iterable[str], Iterable[int]], list[ChatCompletionChunk]]


class Run(Sequence[ChatCompletionChunk]):
    """Chunks that differ in their text alone, or in text and choice, made when they are asked for.

    Args:
        texts: The text of each.
        field: What it is: a field of the delta, or the arguments of its only tool call.
        choice: Which choice it is of, by its index, or that of each.
        make: Makes the chunks of their texts and indices.

    Attributes:
        choice: The index of the choice that all are of; -1 if they are of several.
        choices: The index of each; None if they are of one.
    """

    __slots__ = ("_make", "choice", "choices", "field", "texts")

    def __init__(self, texts: list[str], *, field: Field, choice: int | list[int], make: Make) -> None:
        self.texts = texts
        self.field: Field = field
        self.choice: int = choice if isinstance(choice, int) else -1
        self.choices: list[int] | None = None if isinstance(choice, int) else choice
        self._make = make

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[ChatCompletionChunk]:
        if self.choices is None:
            return iter(self._make(self.texts, repeat(self.choice)))
        return iter(self._make(self.texts, self.choices))

    @overload
    def __getitem__(self, index: int) -> ChatCompletionChunk: ...
    @overload
    def __getitem__(self, index: slice) -> Run: ...
    def __getitem__(self, index: int | slice) -> ChatCompletionChunk | Run:
        if isinstance(index, slice):
            choice = self.choice if self.choices is None else self.choices[index]
            return Run(self.texts[index], field=self.field, choice=choice, make=self._make)
        return self._make(
            (self.texts[index],), (self.choice if self.choices is None else self.choices[index],)
        )[0]
