"""What `client.chat.completions.stream` returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any

from .core import ChatCompletionStream

__all__ = ["StreamManager"]


class StreamManager:
    """Sends the request when entered, and closes the stream when left.

    Args:
        start: Sends it.
    """

    _stream: ChatCompletionStream

    def __init__(self, start: Callable[[], Awaitable[ChatCompletionStream]]) -> None:
        self._start = start

    async def __aenter__(self) -> ChatCompletionStream:
        self._stream = await self._start()
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.aclose()

    def __await__(self) -> Generator[Any, None, ChatCompletionStream]:
        return self._start().__await__()
