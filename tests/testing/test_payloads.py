"""Chunks, completions, events and HTTP frames, byte for byte."""

from __future__ import annotations

from typing import Any

from gradient_async.testing import chunk, completion, head, http_chunk, sse


class TestPayloads:
    def test_chunk(self) -> None:
        """A chunk holds the fields that were given and no others."""
        made = chunk("a", index=2, role="assistant", finish_reason="stop", model="m", service_tier=None)
        assert {"role": "assistant", "content": "a"} == made["choices"][0]["delta"]
        assert (2, "stop", None) == tuple(
            made["choices"][0][name] for name in ("index", "finish_reason", "logprobs")
        )
        assert ("m", None) == (made["model"], made["service_tier"])
        assert {"reasoning_content": "r", "refusal": "f", "tool_calls": [{"index": 0}]} == (
            chunk(reasoning_content="r", refusal="f", tool_calls=[{"index": 0}])["choices"][0]["delta"]
        )
        assert {} == chunk()["choices"][0]["delta"]
        assert [] == chunk(choices=[], usage={"total_tokens": 1})["choices"]

    def test_completion(self) -> None:
        """A completion is whole by default, and every field can be replaced."""
        made = completion("a")
        assert {"role": "assistant", "content": "a", "refusal": None} == made["choices"][0]["message"]
        assert 12 == made["usage"]["total_tokens"]
        full = completion(None, reasoning_content="r", refusal="f", tool_calls=[], usage=None, id="x")
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None,
            "refusal": "f",
            "reasoning_content": "r",
            "tool_calls": [],
        }
        assert message == full["choices"][0]["message"]
        assert (None, "x") == (full["usage"], full["id"])

    def test_sse(self) -> None:
        """An event stream is made of objects, strings and raw bytes."""
        assert b'data: {"a":"\xc3\xa9"}\n\ndata: b\n\n:c\ndata: [DONE]\n\n' == sse({"a": "é"}, "b", b":c\n")
        assert b"" == sse(done=False)

    def test_lone_surrogate(self) -> None:
        """Half a surrogate pair, which no UTF-8 can hold, is escaped."""
        assert b'data: {"a":"\\ud83d"}\n\n' == sse({"a": "\ud83d"}, done=False)

    def test_head(self) -> None:
        """A status line has the standard phrase of its code; unknown codes have "Unknown"."""
        assert b"HTTP/1.1 404 Not Found\r\na: b\r\n\r\n" == head(404, {"a": "b", "c": None})
        assert b"HTTP/1.1 529 Unknown\r\n\r\n" == head(529)

    def test_http_chunk(self) -> None:
        """An HTTP chunk begins with its size in hexadecimal; an empty chunk ends the body."""
        assert b"10\r\n0123456789abcdef\r\n" == http_chunk(b"0123456789abcdef")
        assert b"0\r\n\r\n" == http_chunk(b"")
