"""Chunks made by hand, and what they add up to."""

from __future__ import annotations

from typing import Any

import msgspec

from gradient_async.assembly import CompletionAssembler
from gradient_async.types import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage

__all__ = ["assembled", "chunk", "head", "message"]


def chunk(index: int = 0, /, finish: Any = None, logprobs: Any = None, **delta: Any) -> ChatCompletionChunk:
    """Make a chunk of one choice."""
    choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
    return msgspec.convert({"choices": [choice]}, ChatCompletionChunk)


def head(**fields: Any) -> ChatCompletionChunk:
    """Make a chunk without choices."""
    return ChatCompletionChunk(**fields)


def assembled(*chunks: ChatCompletionChunk, **options: Any) -> ChatCompletion:
    """Add chunks one by one, and all at once; the completion is the same."""
    one, all_at_once = CompletionAssembler(**options), CompletionAssembler(**options)
    for piece in chunks:
        one.add(piece)
    all_at_once.extend(chunks)
    assert one.completion == all_at_once.completion
    assert one.complete == all_at_once.complete
    return one.completion


def message(*chunks: ChatCompletionChunk) -> ChatCompletionMessage:
    """Assemble a message, also where id, model and time are known, so that chunks take the short path of `add`."""
    found = assembled(*chunks).choices[0].message
    assert found == assembled(head(id="c", model="m", created=1), *chunks).choices[0].message
    return found
