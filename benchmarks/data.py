"""Makes streams and completions in the shape and size that servers send: from seeds, so the same in every run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

WORDS = [
    "", "the", "of", "and", "a", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on",
    "are", "as", "with", "his", "they", "I", "at", "be", "this", "have", "from", "or",
]  # fmt: skip
_OPENING = {"role": "assistant", "content": ""}


def chunk(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make a chunk of one choice."""
    return {
        "id": "chatcmpl-0f3c9f6e5b7a4d21",
        "object": "chat.completion.chunk",
        "created": 1_767_225_600,
        "model": "llama3.3-70b-instruct",
        "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **more}],
    }


def event(body: dict[str, Any]) -> bytes:
    """Make an event from a chunk."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _stream(bodies: list[dict[str, Any]]) -> list[bytes]:
    return [*map(event, bodies), b"data: [DONE]\n\n"]


def cut(events: Sequence[bytes], size: int) -> list[bytes]:
    """Cut a stream into reads of ``size`` bytes; 0 gives each event its own read."""
    if not size:
        return [*events]
    wire = b"".join(events)
    return [wire[start : start + size] for start in range(0, len(wire), size)]


def text_stream(tokens: int, choices: int = 1, *, padded: bool = False) -> list[bytes]:
    """Make the events of a stream of text with one token in each chunk; the choices take turns.

    If ``padded``, each chunk has a field of random padding, so that events differ in more than their text.
    """
    dice = random.Random(tokens * 31 + choices)
    bodies = [chunk(index, _OPENING) for index in range(choices)]
    bodies += [chunk(turn % choices, {"content": " " + dice.choice(WORDS)}) for turn in range(tokens)]
    bodies += [chunk(index, {}, finish_reason="stop") for index in range(choices)]
    for body in bodies if padded else ():
        body["obfuscation"] = "".join(dice.choices("abcdefgh0123", k=dice.randint(4, 16)))
    return _stream(bodies)


def arguments(size: int) -> str:
    """Make the arguments of a tool call, of about so many characters: records with numbers, and a long text."""
    dice = random.Random(size)
    records: list[dict[str, Any]] = []
    length = 0
    while length < size // 2:
        tags = dice.choices(WORDS[1:], k=3)
        price = round(dice.uniform(1, 100), 2)
        record = {
            "id": len(records),
            "name": f"{tags[0]} {tags[1]}",
            "price": price,
            "sold": price > 50,
            "tags": tags,
        }
        records.append(record)
        length += len(msgspec.json.encode(record))
    text = " ".join(dice.choices(WORDS[1:], k=(size - length) // 4))
    return msgspec.json.encode({"records": records, "text": f'A "text":\n{text}'}).decode()


def argument_chunks(pieces: list[str]) -> list[dict[str, Any]]:
    """Make the chunks of one tool call with these pieces of arguments."""
    function = {"name": "store", "arguments": ""}
    calls: list[dict[str, Any]] = [{"index": 0, "id": "call_3b1f", "type": "function", "function": function}]
    calls += [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
    return [chunk(0, {"tool_calls": [call]}) for call in calls]


def tool_stream(tokens: int) -> list[bytes]:
    """Make the events of a stream of one tool call, with a fragment of its arguments in each chunk."""

    def call(**function: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, "function": function}]}

    first = call(name="store_text", arguments="")
    first["tool_calls"][0] |= {"id": "call_3b1f", "type": "function"}
    bodies = [chunk(0, first), chunk(0, call(arguments='{"text": "'))]
    bodies += [chunk(0, call(arguments="ab ")) for _ in range(tokens)]
    bodies += [chunk(0, call(arguments='"}')), chunk(0, {}, finish_reason="tool_calls")]
    return _stream(bodies)


def call_stream(calls: int) -> list[bytes]:
    """Make the events of a stream of several tool calls, each in two fragments."""
    bodies: list[dict[str, Any]] = []
    for index in range(calls):
        function = {"name": "add", "arguments": ""}
        first = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
        bodies.append(chunk(0, {"tool_calls": [first]}))
        rest = {"index": index, "function": {"arguments": f'{{"a": {index}}}'}}
        bodies.append(chunk(0, {"tool_calls": [rest]}))
    return _stream([*bodies, chunk(0, {}, finish_reason="tool_calls")])


def logprob_stream(tokens: int, top: int = 20) -> list[bytes]:
    """Make the events of a stream of text with log probabilities of each token and of the likeliest tokens."""
    dice = random.Random(tokens * 31 + top)
    bodies = [chunk(0, _OPENING)]
    for _ in range(tokens):
        entry = _logprob(dice, top)
        bodies.append(chunk(0, {"content": entry["token"]}, logprobs={"content": [entry], "refusal": None}))
    bodies.append(chunk(0, {}, finish_reason="stop"))
    return _stream(bodies)


def _logprob(dice: random.Random, top: int) -> dict[str, Any]:
    def entry() -> dict[str, Any]:
        token = " " + dice.choice(WORDS)
        return {"token": token, "logprob": -20 * dice.random(), "bytes": list(token.encode())}

    return {**entry(), "top_logprobs": [entry() for _ in range(top)]}


def _completion(text: str, tokens: int, **choice: Any) -> bytes:
    message = {"role": "assistant", "content": text}
    body = chunk(0, {}) | {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, **choice, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": tokens, "total_tokens": tokens + 12},
    }
    return msgspec.json.encode(body)


def small_completion(size: int) -> bytes:
    """Make a completion, as JSON, of at least ``size`` bytes; its text is JSON, too, with one field ``text``."""
    text = "a" * max(0, size - len(_completion('{"text":""}', 9)))
    return _completion(f'{{"text":"{text}"}}', 9)


def large_completion(tokens: int, top: int = 20) -> bytes:
    """Make a completion, as JSON, with the log probabilities of every token."""
    dice = random.Random(tokens * 37 + top)
    entries = [_logprob(dice, top) for _ in range(tokens)]
    text = "".join(entry["token"] for entry in entries)
    return _completion(text, tokens, logprobs={"content": entries, "refusal": None})
