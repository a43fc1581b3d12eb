"""Indices of choices and of tool calls, as many as there may be."""

from __future__ import annotations

from ..errors import StreamError, call_index_error, choice_index_error
from ..types import ChunkChoice

__all__ = ["refusal"]


def refusal(choice: ChunkChoice, choices: range | None, calls: range) -> StreamError | None:
    """Make the error of a choice in a chunk that is one too many, or has a tool call that is.

    Args:
        choice: What the chunk says of it.
        choices: Indices that choices may have; None leaves all of this to who assembles.
        calls: Indices that tool calls may have.

    Returns:
        The error, or None if nothing is wrong.
    """
    if choices is None:
        return None
    if choice.index not in choices:
        return choice_index_error(choice.index, len(choices))
    for call in choice.delta.tool_calls or ():
        if call.index is not None and call.index not in calls:
            return call_index_error(choice.index, call.index, len(calls))
    return None
