"""Error bodies are understood in every shape that servers use, alone and inside a reply of status 200."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradient_async.decoding import describe_error, find_error, parse_error, reply_error, server_error

SHAPES: list[tuple[Any, str, dict[str, str]]] = [
    ({"id": "unauthorized", "message": "Unable", "request_id": "r"}, "Unable", {"code": "unauthorized", "request_id": "r"}),
    ({"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}, "m", {"code": "c", "type": "t", "param": "p"}),
    ({"error": {"message": "m", "request_id": "r", "code": 5}}, "m", {"code": "5", "request_id": "r"}),
    ({"error": "text"}, "text", {}),
    ({"error": "text", "code": "c", "error_type": "t"}, "text", {"code": "c", "type": "t"}),
    ({"type": "error", "error": {"type": "t", "message": "m"}}, "m", {"type": "t"}),
    ({"detail": "text"}, "text", {}),
    ({"detail": [{"loc": ["body", "a", 0], "msg": "m", "type": "t"}, {"type": "x"}, "s", 5]}, "body.a.0: m; x; s; 5", {}),
    ({"detail": {"msg": "m"}}, "m", {}),
    ({"error": {"message": {"detail": "m"}}}, "m", {}),
    ({"error": {"type": "t"}}, "t", {"type": "t"}),
    ({"error": {"message": [[["x"]], {"a": 1}]}}, "x; ", {}),
    ({"error": {"code": {"a": 1}, "param": ["x"]}}, "", {}),
    ([{"error": {"message": "m"}}], "m", {}),
    ([], "", {}),
    ({}, "", {}),
    (None, "", {}),
    ("words", "words", {}),
    (5, "5", {}),
    ({"id": "x", "object": "error", "message": "m", "code": 400}, "m", {"code": "400"}),
    ({"id": "x", "object": "chat.completion", "message": "m"}, "m", {}),
]  # fmt: skip


class TestErrors:
    @pytest.mark.parametrize(("body", "message", "named"), SHAPES)
    def test_of_every_shape(self, body: Any, message: str, named: dict[str, str]) -> None:
        found = parse_error(json.dumps(body).encode())
        assert (message, body) == (found.message, found.body)
        names = ("code", "type", "param", "request_id")
        assert named == {name: getattr(found, name) for name in names if getattr(found, name) is not None}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", ""),
            (b"Bad gateway\n", "Bad gateway"),
            (
                b"<html><head><title>502</title></head>\n<body><h1>Bad  Gateway</h1></body></html>",
                "502 Bad Gateway",
            ),
            (b"a < b", "a b"),
            (b"\xff\x00", "\ufffd\\x00"),
            (b'{"error":"half', '{"error":"half'),
            (b"x" * 9000, "x" * 500 + "…"),
            (b"[" * 200_000, "[" * 500 + "…"),
        ],
    )
    def test_that_are_not_json(self, content: bytes, message: str) -> None:
        """A gateway may answer HTML or nothing; of much, the beginning is kept."""
        found = parse_error(content)
        assert (message, content.decode("utf-8", "replace")[:2048] or None) == (found.message, found.body)

    def test_odd_json(self) -> None:
        assert "\\ud83d" == parse_error(b'{"error":"\\ud83d"}').message
        assert "m" == parse_error(b'{"error":{"message":"m","x":NaN}}').message
        deep = '{"message":' * 60 + '"m"' + "}" * 60
        assert "" == parse_error(f'{{"error":{deep}}}'.encode()).message

    def test_codes_are_safe_to_print_and_short(self) -> None:
        found = parse_error(
            json.dumps({"error": {"code": "a\nb" + "c" * 999, "type": "\x1b", "message": "m"}}).encode()
        )
        assert "a\\nb" + "c" * 197 + "…" == found.code
        assert "\\x1b" == found.type

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"null", b'{"choices":[{}]}', b'{"id":"x"}', b"[" * 200_000]
    )
    def test_no_error(self, body: bytes) -> None:
        assert None is reply_error(body)

    def test_inside_a_reply_of_200(self) -> None:
        found = reply_error(b'{"error":{"message":"m","code":429}}')
        assert found is not None
        error = server_error(found, "in place of a stream")
        assert "the server sent an error in place of a stream: m (429)" == error.message
        assert ("429", True) == (error.code, error.retryable)

    def test_of_a_list_only_where_it_is_named(self) -> None:
        assert None is find_error([{"error": "x"}])
        found = describe_error([{"error": "x"}])
        assert found is not None
        assert "x" == found.message
