"""The call that most tests make, and short functions that make it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from gradient_async import AsyncGradient, ChatCompletion, ChatCompletionStream
from gradient_async.testing import Server

MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]
CALL: dict[str, Any] = {"model": "m", "messages": MESSAGES}
Start = Callable[..., Awaitable[tuple[Server, AsyncGradient]]]


async def create_completion(client: AsyncGradient, **params: Any) -> ChatCompletion:
    """Await a completion."""
    return cast("ChatCompletion", await client.chat.completions.create(**(CALL | params)))


async def open_stream(client: AsyncGradient, **params: Any) -> ChatCompletionStream:
    """Open a stream."""
    stream: ChatCompletionStream = await client.chat.completions.create(stream=True, **(CALL | params))
    return stream


def assert_equal_errors(expected: BaseException | None, error: BaseException) -> None:
    """Expect a copy: another error of the same class with the same attributes."""
    assert error is not expected
    assert (type(expected), vars(expected)) == (type(error), vars(error))
