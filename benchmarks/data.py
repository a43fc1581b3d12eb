"""Seeded streams of chunks to decode: the same bytes in every run."""

from __future__ import annotations

import random
from typing import Any

import msgspec

WORDS = [
    "",
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "I",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
]


def chunk(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make a chunk of one choice, in the shape and size that servers send."""
    return {
        "id": "chatcmpl-0f3c9f6e5b7a4d21",
        "object": "chat.completion.chunk",
        "created": 1_767_225_600,
        "model": "llama3.3-70b-instruct",
        "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}],
    }


def text_stream(tokens: int, choices: int = 1) -> list[bytes]:
    """Make the events of a stream of text.

    Args:
        tokens: How many chunks with text, over all choices.
        choices: Among how many choices they go round.

    Returns:
        One event a chunk, the finishing ones and ``[DONE]`` last.
    """
    dice = random.Random(tokens * 31 + choices)
    bodies = [chunk(index, {"role": "assistant", "content": ""}) for index in range(choices)]
    bodies += [chunk(turn % choices, {"content": " " + dice.choice(WORDS)}) for turn in range(tokens)]
    bodies += [chunk(index, {}, finish_reason="stop") for index in range(choices)]
    return [b"data: " + msgspec.json.encode(body) + b"\n\n" for body in bodies] + [b"data: [DONE]\n\n"]


def tool_stream(tokens: int) -> list[bytes]:
    """Make the events of a stream of one tool call, an argument fragment a chunk."""

    def call(**function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "function": function}]}

    first = call(name="store_text", arguments="")
    first["tool_calls"][0] |= {"id": "call_3b1f", "type": "function"}
    bodies = [chunk(0, first), chunk(0, call(arguments='{"text": "'))]
    bodies += [chunk(0, call(arguments="ab ")) for _ in range(tokens)]
    bodies += [chunk(0, call(arguments='"}')), chunk(0, {}, finish_reason="tool_calls")]
    return [b"data: " + msgspec.json.encode(body) + b"\n\n" for body in bodies] + [b"data: [DONE]\n\n"]
