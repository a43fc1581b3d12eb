"""Chunks to a completion and to events at once, for programs that get chunks in their own way."""

from __future__ import annotations

from ..assembly import CompletionAssembler
from ..config import Limits
from ..errors import StreamTruncatedError
from ..types import ChatCompletion, ChatCompletionChunk
from .builder import EventBuilder
from .types import ChatCompletionStreamEvent


class ChatCompletionStreamState:
    """A `CompletionAssembler` that also makes events, with the methods that users of ``openai`` know.

    Args:
        n: Number of choices that were asked for.
        limits: Limits on what the chunks may add up to.
        strict: Whether every choice needs a finish_reason.
    """

    def __init__(self, *, n: int = 1, limits: Limits | None = None, strict: bool = False) -> None:
        self._assembler = CompletionAssembler(n=n, limits=limits or Limits(), strict=strict)
        self._builder = EventBuilder(self._assembler)

    def handle_chunk(self, chunk: ChatCompletionChunk) -> list[ChatCompletionStreamEvent]:
        """Add a chunk; return its events.

        Raises:
            StreamProtocolError: If an index is negative.
            StreamLimitError: If there are more choices, calls or bytes than `Limits` allow.
        """
        self._assembler.add(chunk)
        return list(self._builder.add(chunk))

    @property
    def current_completion_snapshot(self) -> ChatCompletion:
        """The completion as far as its chunks were added; a new object each time."""
        return self._assembler.completion

    def get_final_completion(self) -> ChatCompletion:
        """Return the whole completion. Call this method when the stream has ended with ``[DONE]``.

        Raises:
            StreamTruncatedError: If there was no choice; if ``strict``, also if a choice has no finish_reason.
        """
        self._assembler.end(done=True)
        completion = self._assembler.completion
        if not self._assembler.complete:
            raise StreamTruncatedError("the chunks do not add up to a whole completion", partial=completion)
        return completion
