"""Scripted answers of a model, cut into tokens with log probabilities."""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from gradient_async.testing import Connection, chunk, head, http_chunk, sse

BEGIN = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})


def tokens_of(text: str) -> list[str]:
    """Cut text into words and punctuation marks, with the spaces before them."""
    return re.findall(r"\s*[\w'’-]+|\s*[^\w\s]", text)


def logprobs(token: str, share: float) -> dict[str, Any]:
    """Return the log probabilities of a chunk with one token."""
    entry: dict[str, Any] = {"token": token, "logprob": math.log(share), "bytes": None, "top_logprobs": []}
    return {"content": [entry], "refusal": None}


def deltas(
    *texts: str,
    thoughts: str = "",
    unsure: Mapping[str, float] | None = None,
    finish_reason: str | None = "stop",
) -> Iterator[dict[str, Any]]:
    """Yield the chunks of several answers, which take turns.

    Args:
        texts: One for each answer.
        thoughts: The reasoning before each answer.
        unsure: Probabilities of words; that of all others is 0.97.
        finish_reason: Why each answer ends; None for answers that do not end.
    """

    def one(index: int, text: str) -> Iterator[dict[str, Any]]:
        for token in tokens_of(thoughts):
            yield chunk(index=index, reasoning_content=token)
        for token in tokens_of(text):
            share = (unsure or {}).get(token.strip(), 0.97)
            yield chunk(token, index=index, logprobs=logprobs(token, share))
        if finish_reason is not None:
            yield chunk(index=index, finish_reason=finish_reason)

    turns = itertools.zip_longest(*(one(index, text) for index, text in enumerate(texts)))
    return (delta for turn in turns for delta in turn if delta is not None)


def usage(tokens: int) -> dict[str, Any]:
    """Return the last chunk of a stream."""
    return chunk(
        choices=[],
        usage={"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens},
    )


def writes(chunks: Iterator[dict[str, Any]]) -> list[Any]:
    """Return the beginning of a reply, each chunk in a write of its own; what follows is up to the test."""
    return [BEGIN, *(http_chunk(sse(each, done=False)) for each in chunks)]


class Gate:
    """A step of a reply that waits until the test opens it: what came before has then surely been shown."""

    def __init__(self) -> None:
        self._open = threading.Event()

    async def __call__(self, connection: Connection) -> None:
        """Wait; the test and the server are in different threads."""
        while not self._open.is_set():
            await connection.sleep(0.01)

    def open(self) -> None:
        """Let the reply continue."""
        self._open.set()
