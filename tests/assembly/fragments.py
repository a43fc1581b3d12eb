"""Fragments of tool calls in short form: `index id name arguments`, with `-` for what is left out."""

from __future__ import annotations

from typing import Any

import msgspec

from gradient_async.assembly import CompletionAssembler
from gradient_async.types import ChatCompletionChunk, ToolCall, ToolCallDelta

__all__ = ["calls_of", "chunk_of", "fragment", "plain"]


def _told(word: str) -> str | None:
    return None if word == "-" else word


def fragment(text: str) -> ToolCallDelta:
    """Read a fragment."""
    index, id_, name, arguments = text.split(" ", 3)
    return msgspec.convert(
        {
            "index": None if index == "-" else int(index),
            "id": _told(id_),
            "function": {"name": _told(name), "arguments": _told(arguments)},
        },
        ToolCallDelta,
    )


def chunk_of(*entries: ToolCallDelta) -> ChatCompletionChunk:
    """Make a chunk of fragments."""
    choices: list[Any] = [{"delta": {"tool_calls": msgspec.to_builtins(entries)}}]
    return msgspec.convert({"choices": choices}, ChatCompletionChunk)


def plain(calls: list[ToolCall] | None) -> list[str]:
    """Write calls as `id name arguments`."""
    return [
        " ".join(text or "-" for text in (call.id, call.function.name, call.function.arguments))
        for call in calls or []
    ]


def calls_of(*fragments: str, together: bool = False) -> list[str]:
    """Merge fragments, each in a chunk of its own or all in one."""
    assembler = CompletionAssembler()
    entries = [fragment(text) for text in fragments]
    for part in (entries,) if together else [[entry] for entry in entries]:
        assembler.add(chunk_of(*part))
    return plain(assembler.completion.choices[0].message.tool_calls)
