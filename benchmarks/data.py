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
    return _events(bodies)


def padded_stream(tokens: int) -> list[bytes]:
    """Make the events of a stream of text that is padded, as some servers do: no event is like another.

    Args:
        tokens: How many chunks with text.
    """
    dice = random.Random(tokens * 41)
    padding = ("".join(dice.choices("abcdefgh0123", k=dice.randint(4, 16))) for _ in range(tokens + 2))
    bodies = [chunk(0, {"role": "assistant", "content": ""})]
    bodies += [chunk(0, {"content": " " + dice.choice(WORDS)}) for _ in range(tokens)]
    bodies += [chunk(0, {}, finish_reason="stop")]
    return _events([body | {"obfuscation": pad} for body, pad in zip(bodies, padding, strict=True)])


def _entry(dice: random.Random, top: int) -> dict[str, Any]:
    def told() -> dict[str, Any]:
        token = " " + dice.choice(WORDS)
        return {"token": token, "logprob": -20 * dice.random(), "bytes": list(token.encode())}

    return {**told(), "top_logprobs": [told() for _ in range(top)]}


def logprob_stream(tokens: int, top: int = 20) -> list[bytes]:
    """Make the events of a stream of text with log probabilities.

    Args:
        tokens: How many chunks with text.
        top: Alternatives told of each token.
    """
    dice = random.Random(tokens * 31 + top)
    bodies = [chunk(0, {"role": "assistant", "content": ""})]
    for _ in range(tokens):
        entry = _entry(dice, top)
        bodies.append(chunk(0, {"content": entry["token"]}, logprobs={"content": [entry], "refusal": None}))
    bodies.append(chunk(0, {}, finish_reason="stop"))
    return _events(bodies)


def chunk_event(text: str) -> bytes:
    """Make the event of a chunk of one choice with a text."""
    return _events([chunk(0, {"content": text})])[0]


def time_event(now: int) -> bytes:
    """Make the first event of a stream, whose text is the time.

    Args:
        now: Nanoseconds of a clock that all processes share.
    """
    return chunk_event(str(now))


def large_completion(tokens: int, top: int = 20) -> bytes:
    """Make a whole completion of so many tokens with log probabilities, as JSON."""
    dice = random.Random(tokens * 37 + top)
    entries = [_entry(dice, top) for _ in range(tokens)]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(entry["token"] for entry in entries)},
        "logprobs": {"content": entries, "refusal": None},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 12, "completion_tokens": tokens, "total_tokens": tokens + 12}
    frame = chunk(0, {}) | {"object": "chat.completion"}
    return msgspec.json.encode(frame | {"choices": [choice], "usage": usage})


def _events(bodies: list[dict[str, Any]]) -> list[bytes]:
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
    return _events(bodies)
