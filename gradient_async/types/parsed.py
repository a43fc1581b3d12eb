"""Completions whose text was read as a value of a type."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from .messages import ChatCompletion, ChatCompletionMessage, Choice

T = TypeVar("T")


# The encoded name of `parsed` has the prefix of the fields that only the session sets, as the name of `request_id` has. So a
# server cannot set the field, and neither `to_dict` nor the next request contains it. The garbage collector tracks these
# Structs (`gc=True`), because a value of the user's type may refer to anything.
class ParsedChatCompletionMessage(ChatCompletionMessage, Generic[T], gc=True, kw_only=True):
    """The model's message, with the value that its text stands for. You can pass it back in the next request.

    Attributes:
        parsed: The value; None if the model refused, if it calls tools without a text, or if the request named no type.
    """

    parsed: T | None = msgspec.field(default=None, name="@parsed")


class ParsedChoice(Choice, Generic[T], gc=True, kw_only=True):
    """One of the n answers.

    Attributes:
        message: The model's message, with the value that its text stands for.
    """

    message: ParsedChatCompletionMessage[T] = msgspec.field(  # pyright: ignore[reportIncompatibleVariableOverride]  # as in openai
        default_factory=lambda: ParsedChatCompletionMessage()  # noqa: PLW0108  # of any T
    )


class ParsedChatCompletion(ChatCompletion, Generic[T], gc=True, kw_only=True):
    """A whole completion, with the values that the texts of its choices stand for.

    Attributes:
        choices: The choices, ordered by index.
    """

    choices: list[ParsedChoice[T]] = []  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]  # as in openai

    @property
    def parsed(self) -> T | None:
        """The value of the first choice."""
        return self.choices[0].message.parsed if self.choices else None
