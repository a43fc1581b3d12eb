"""Finds out whether a model has spoken, which restarts the time limits of a stream."""

from __future__ import annotations

from collections.abc import Iterable

from ..types import ChatCompletionChunk, ChunkChoice, TextBatch


class Content:
    """Tells the chunks of one stream that have content from the others.

    Text, reasoning, a refusal, arguments and media are content. A finish_reason, usage, the id and name of a tool call, and
    details of the reasoning are content only if the last chunk that had nothing else was not the same: a gateway that
    repeats such a chunk to keep the connection open does not say that the model is at work.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: ChatCompletionChunk | None = None

    def is_in(self, chunks: Iterable[ChatCompletionChunk]) -> bool:
        """Whether the next chunks of the stream have content."""
        if type(chunks) is TextBatch:
            return any(chunks.texts)
        for chunk in chunks:
            if any(map(_says_anything, chunk.choices)):
                return True
            if chunk.usage is not None or any(map(_states_anything, chunk.choices)):
                last, self._last = self._last, chunk
                if last is None or chunk.usage != last.usage or chunk.choices != last.choices:
                    return True
        return False


def has_content(chunks: Iterable[ChatCompletionChunk]) -> bool:
    """Whether chunks have content, if they are the first of a stream."""
    return Content().is_in(chunks)


def _says_anything(choice: ChunkChoice) -> bool:
    delta = choice.delta
    calls = delta.tool_calls
    function = delta.function_call
    return bool(
        delta.content
        or delta.reasoning_content
        or delta.refusal
        or (calls is not None and any(call.function.arguments or call.custom for call in calls))
        or (function is not None and function.arguments)
        or delta.images
        or delta.audio
    )


def _states_anything(choice: ChunkChoice) -> bool:
    delta = choice.delta
    calls = delta.tool_calls
    function = delta.function_call
    return bool(
        choice.finish_reason is not None
        or (calls is not None and any(call.id or call.function.name or call.extra_content for call in calls))
        or (function is not None and function.name)
        or delta.reasoning_details
        or delta.content_parts
    )
