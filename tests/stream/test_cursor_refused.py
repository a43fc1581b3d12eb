"""A chunk that can't be assembled is an error of ours, whichever way the stream is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from client_calls import Start, open_stream

from gradient_async import ChatCompletionStream, Limits, StreamError
from gradient_async.testing import chunk, reply_sse


def _calls(count: int) -> list[Any]:
    return [{"index": i, "id": f"c{i}", "function": {"name": "f", "arguments": "{}"}} for i in range(count)]


def _beside(index: int) -> dict[str, Any]:
    """A chunk of two choices, of which the second has an odd index."""
    both = chunk("b")
    both["choices"] += chunk("c", index=index)["choices"]
    return both


REFUSED = [
    pytest.param(chunk("b", index=10**9), "StreamLimitError", id="index"),
    pytest.param(chunk("b", index=-1), "StreamProtocolError", id="negative index"),
    pytest.param(_beside(10**9), "StreamLimitError", id="second choice"),
    pytest.param(chunk(tool_calls=_calls(6)), "StreamLimitError", id="tool calls"),
    pytest.param(chunk("b" * 300), "StreamLimitError", id="completion"),
]
WAYS: dict[str, Callable[[ChatCompletionStream], AsyncIterator[Any]]] = {
    "chunks": aiter,
    "text": lambda stream: aiter(stream.text),
    "events": lambda stream: aiter(stream.events()),
    "raw": lambda stream: aiter(stream.raw),
    "choice": lambda stream: aiter(stream.choice(0)),
}


@pytest.mark.parametrize("per_write", [1, 9])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("bad", "name"), REFUSED)
async def test_a_chunk_that_can_not_be_assembled(
    start: Start,
    bad: dict[str, Any],
    name: str,
    way: str,
    per_write: int,
) -> None:
    """What came before is delivered first, and the error stays."""
    _, client = await start(
        reply_sse(chunk("a"), bad, chunk("z"), chunk(finish_reason="stop"), per_write=per_write),
        limits=Limits(tool_calls=4, completion_bytes=200),
    )
    stream = await open_stream(client)
    got: list[Any] = []
    with pytest.raises(StreamError) as caught:
        async for item in WAYS[way](stream):
            got.append(item)  # noqa: PERF401  # what came before the error is looked at
    error = caught.value
    assert name == type(error).__name__
    assert got
    assert error.partial is not None
    assert (error.partial.choices[0].message.content or "").startswith("a")
    with pytest.raises(StreamError) as again:
        await anext(WAYS[way](stream))
    assert str(error) == str(again.value)
