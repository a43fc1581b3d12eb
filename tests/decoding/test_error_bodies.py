"""Error bodies are understood in every shape that servers use, alone and inside a reply of status 200."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gradient_async.decoding import describe_error, find_error, parse_error, reply_error, server_error
from gradient_async.decoding.error_bodies import find_glued_error, find_inner_error

SHAPES: list[tuple[Any, str, dict[str, str]]] = [
    ({"id": "unauthorized", "message": "Unable", "request_id": "r"}, "Unable", {"code": "unauthorized", "request_id": "r"}),
    ({"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}, "m", {"code": "c", "type": "t", "param": "p"}),
    ({"error": {"message": "m", "request_id": "r", "code": 5}}, "m", {"code": "5", "request_id": "r"}),
    ({"error": {"message": "m"}, "request_id": "r", "id": "i"}, "m", {"request_id": "r"}),
    ({"error": True, "message": "m"}, "m", {}),
    ({"message": "", "detail": "m"}, "m", {}),
    ({"error": {"message": "m", "details": 5}}, "m", {}),
    ({"error": "text"}, "text", {}),
    ({"error": "text", "code": "c", "error_type": "t"}, "text", {"code": "c", "type": "t"}),
    ({"type": "error", "error": {"type": "t", "message": "m"}}, "m", {"type": "t"}),
    ({"detail": "text"}, "text", {}),
    ({"detail": [{"loc": ["body", "a", 0], "msg": "m", "type": "t"}, {"type": "x"}, "s", 5]}, "body.a.0: m; x; s; 5", {}),
    ({"detail": {"msg": "m"}}, "m", {}),
    ({"error": {"message": {"detail": "m"}}}, "m", {}),
    ({"error": {"type": "t"}}, "t", {"type": "t"}),
    ({"error": {"message": [[["x"]], {"a": 1}]}}, "x", {}),
    ({"error": {"code": {"a": 1}, "param": ["x"]}}, "param: x", {}),
    ([{"error": {"message": "m"}}], "m", {}),
    ([], "", {}),
    ({}, "", {}),
    (None, "", {}),
    ("words", "words", {}),
    (5, "5", {}),
    ({"id": "x", "object": "error", "message": "m", "code": 400}, "m", {"code": "400"}),
    ({"errors": [{"message": "a", "code": 7003}, "b"], "success": False}, "a; b", {"code": "7003"}),
    ({"errors": ["a", "b"]}, "a; b", {}),
    ({"error": None, "errors": [{"detail": "a"}]}, "a", {}),
    ({"errors": {"message": "a"}}, "a", {}),
    ({"base_resp": {"status_code": 1027, "status_msg": "m"}, "id": "c"}, "m", {"code": "1027"}),
    ({"error_code": 18, "error_msg": "m", "id": "as-1"}, "m", {"code": "18"}),
    ({"ErrorCode": "Throttled", "ErrorMessage": "m", "RequestId": "r"}, "m", {"code": "Throttled", "request_id": "r"}),
    ({"code": "InvalidParameter", "message": "m", "request_id": "r"}, "m", {"code": "InvalidParameter", "request_id": "r"}),
    ({"statusCode": 503, "message": "m"}, "m", {"code": "503"}),
    ({"title": "m", "status": 422, "type": "about:blank"}, "m", {"type": "about:blank"}),
    ([{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}], "m", {"code": "429", "type": "RESOURCE_EXHAUSTED"}),
    ({"error": {"message": "m", "type": "", "code": ""}}, "m", {"code": ""}),
    ({"id": "x", "object": "chat.completion", "message": "m"}, "m", {}),
    # A name or a flag in `error`, and the message beside it.
    ({"error": "Bad Request", "message": ["a", "b"], "statusCode": 400}, "Bad Request: a; b", {"code": "400"}),
    ({"error": "invalid_grant", "error_description": "m"}, "invalid_grant: m", {}),
    ({"error": "m", "message": "m"}, "m", {}),
    ({"error": True, "message": "m", "code": "c"}, "m", {"code": "c"}),
    ({"error": 401, "reason": "m"}, "m", {"code": "401"}),
    ({"error": 1.5}, "1.5", {"code": "1.5"}),
    ({"error": {"code": "c"}, "message": "m"}, "m", {"code": "c"}),
    ({"error": {"message": "m"}, "code": 429}, "m", {"code": "429"}),
    # An error inside an error, and reasons in lists.
    ({"detail": {"error": {"message": "m"}}}, "m", {}),
    ({"error": {"error": "m"}}, "m", {}),
    ({"error": {"message": "m", "details": [{"reason": "a"}, {"links": 5}]}}, "m: a", {}),
    ({"error": {"errors": [{"reason": "a"}, {"reason": "b"}]}}, "a; b", {}),
    ({"errors": {"name": ["is short", "is old"], "age": []}}, "name: is short; is old", {}),
    ({"errors": {"name": "short"}}, "", {}),
    ({"message": "Bad", "errors": {"name": ["is short"]}}, "Bad: name: is short", {}),
    # Other names.
    ({"errcode": 40013, "errmsg": "m"}, "m", {"code": "40013"}),
    ({"fault": {"faultstring": "m"}}, "m", {}),
    ({"exception": "m"}, "m", {}),
    ({"Error": {"Message": "m", "Code": "c"}}, "m", {"code": "c"}),
    ({"baseResp": {"statusCode": 7, "statusMsg": "m"}}, "m", {"code": "7"}),
]  # fmt: skip


# Where there is no answer.
NAMED: list[dict[str, Any]] = [
    {"base_resp": {"status_code": 2013}, "choices": []},
    {"base_resp": {"status_code": "1004"}, "choices": None},
    {"error_code": 336003},
    {"error_msg": "m", "choices": []},
    {"errorMessage": "m", "result": None},
    {"errors": [{"message": "m"}]},
    {"code": 500, "choices": []},
    {"code": "DataInspectionFailed", "message": ""},
    {"code": 1261},
    {"status": 404, "path": "/"},
    {"status": "error", "data": None},
    {"status": "FAILED"},
    {"success": False},
    {"object": "error"},
    {"detail": "starting"},
    {"id": "overloaded", "message": "m"},
    {"choices": None, "message": "m"},
    {"message": "An unexpected error occurred"},
    {"message": ["Forbidden"]},
    {"msg": "Rate limit exceeded"},
    {"x_groq": {"error": "over_capacity"}, "choices": [{"delta": {}}]},
    {"Error": "m"},
    {"ERROR": {"Message": "m"}, "choices": []},
    {"baseResp": {"statusCode": 5}},
    {"err": "m"},
    {"errcode": 40001, "choices": None},
    {"errmsg": "m"},
    {"exception": "m"},
    {"status": "503"},
    {"ok": False},
    {"success": "false"},
    {"Message": "The caller is not authorized to do this"},
    {"message": "Request timeout"},
    {"error": ""},
    {"error": {}},
    {"choices": 5, "detail": "x"},
]

NO_ERRORS: list[dict[str, Any]] = [
    {"base_resp": {"status_code": 1008}, "choices": [{"delta": {"content": "a"}}]},
    {"error_code": 4, "code": 500, "message": "m", "choices": [{}]},
    {"error_code": 0, "error_msg": "m"},
    {"code": True},
    {"code": {"x": 1}},
    {"status": True},
    {"message": "success", "code": 1},
    {"message": "m", "code": 0},
    {"id": "chatcmpl-1", "message": "m"},
    {"id": "loading", "object": "x", "message": "m"},
    {"x_groq": {"error": None, "id": "q"}},
    {"x_groq": "error"},
    {"err": None, "Error": [], "exception": ""},
    {"errcode": 0, "errmsg": "ok"},
    {"error": "none"},
    {"error": "null", "choices": [{"delta": {"content": "a"}}]},
    {"error": "OK", "choices": []},
    {"status": "200", "ok": True, "success": "true"},
    {"status": "599 of 600"},
    {"error": 0},
    {"error": False},
    {"error": "", "choices": []},
    {"error": {"code": 0, "message": ""}, "choices": []},
    {"base_resp": {"status_code": 0, "status_msg": "success"}},
    {"choices": [], "message": "hello"},
]


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
                (
                    b"<!DOCTYPE html><html><head><title>523 &#124; down</title><STYLE type='text/css'>a > b { color: red }</STYLE >"
                    b'<script>if (1 < 2) { x = {"error":{"message":"hidden"}} }</script><!-- <p>no</p> --></head>'
                    b"<body onload='x'><p>The web&nbsp;server<br/>is&#x20;down &amp; out</p><SCRIPT src=x></SCRIPT>.</body></html>"
                ),
                "523 | down The web server is down & out .",
            ),
            (b"<p>seen<script>never closed", "seen"),
            (b"<p>seen</p><!-- never closed", "seen"),
            (b"<p>seen <b", "seen <b"),
            (b"<!-- no -->seen<b>!</b>", "seen !"),
            (b"<p>&#99999999999; &nosuchname; &bogus</p>", "&#99999999999; &nosuchname; &bogus"),
            (b"<Error><Code>AccessDenied</Code></Error>", "AccessDenied"),
            (b"<style>" * 5000, ""),
            (
                b"<html><head><title>502</title></head>\n<body><h1>Bad  Gateway</h1></body></html>",
                "502 Bad Gateway",
            ),
            (b"a < b", "a < b"),
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

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (
                {
                    "message": "Provider returned error",
                    "metadata": {"raw": '{"error":{"message":"no room"}}'},
                },
                "no room",
            ),
            (
                {"message": "m", "metadata": {"raw": '{"detail":[{"msg":"no room"}]}', "provider_name": "p"}},
                "m: no room",
            ),
            ({"message": "m", "metadata": {"raw": "<html><style>x</style>no room</html>"}}, "m: no room"),
            ({"message": "m", "metadata": {"raw": '"no room"'}}, 'm: "no room"'),
            ({"message": "m", "metadata": {"raw": {"error": "no room"}}}, "m: no room"),
            ({"message": "m", "metadata": {"reasons": ["x"]}}, "m"),
            ({"message": "m", "metadata": {"raw": ""}}, "m"),
            ({"message": "m: no room", "cause": {"message": "no room"}}, "m: no room"),
            ({"metadata": {"raw": "no room"}, "code": 502}, "no room"),
            (
                {"message": "m", "innererror": {"code": "c", "innererror": {"message": "no room"}}},
                "m: no room",
            ),
            (
                {
                    "message": "m",
                    "cause": {"cause": {"cause": {"cause": {"cause": {"message": "too deep"}}}}},
                },
                "m",
            ),
        ],
    )
    def test_the_reason_may_lie_deeper(self, error: Any, message: str) -> None:
        """A gateway puts the error that it got into its own."""
        for found in (describe_error({"error": error}), find_error({"error": error, "choices": [{}]})):
            assert found is not None
            assert found.message.endswith(message)
            assert found.message.startswith(error.get("message", ""))

    @pytest.mark.parametrize("body", NAMED)
    def test_by_every_name(self, body: Any) -> None:
        """What says that something failed is an error where there is no answer."""
        assert None is not find_error(body)

    @pytest.mark.parametrize("body", NO_ERRORS)
    def test_not_by_other_names(self, body: Any) -> None:
        assert None is find_error(body)

    def test_the_message_names_the_code_or_the_type(self) -> None:
        for fields, end in (({"code": "c", "type": "t"}, " (c)"), ({"type": "t"}, " (t)"), ({}, ": m")):
            assert server_error(describe_error({"error": {"message": "m", **fields}})).message.endswith(end)

    def test_in_a_field_of_something_unknown(self) -> None:
        found = find_inner_error({"id": 5, "a": {"error": 0}, "result": {"error": {"message": "m"}}})
        assert "m" == (found and found.message)
        assert None is find_inner_error({"a": {"error": None}, "error": "x"})

    @pytest.mark.parametrize(
        "content",
        [
            b'{"id":"c","choices":[{"delta":{"content":"so f{"error":{"message":"no room","code":502}}',
            b'{"id":"c","choi\n\ndata: {"error": {"message": "no room"}}\n\n',
            b'{"id":"c","choices":[{"delta": {"error":{"message":"no room"}}\n',
            b'upstream: { "code" : "busy", "message" : "no room" } (gateway)',
            b'event: error\ndata: {"message":"no room","type":"error"}\n\n',
            b'{"a":1}' * 99 + b'{"error":"no room"}',
        ],
    )
    def test_behind_something_else(self, content: bytes) -> None:
        found = parse_error(content)
        assert "no room" == found.message
        assert isinstance(found.body, dict)

    @pytest.mark.parametrize(
        "content",
        [
            b'<script>{"error":"x"}</script>words',
            b'so {"error":{"message":"torn',
            b'{"id":"c","object":"x"} {"type":"function"}',
            b'{"id":' * 100_000,
            b'{"id":1} ' * 17 + b'{"error":"too far from the first"}',
            b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":{"error":"x","code":"E"}}}]',
            b'{"choices":[{"delta":{"content_parts":["a",{"type":"error"},\n',
            b'[{"error":"x"}, {',
        ],
    )
    def test_not_behind_everything(self, content: bytes) -> None:
        """Scripts of a page and values inside of torn JSON are not looked at, and the work is bounded."""
        assert None is find_glued_error(content)

    @pytest.mark.parametrize(
        "content",
        [
            b'{"choices":[{"message":{"content":"hal{"error":"x"}</html>',
            b'torn {"id":"c"}{"error":"x"}',
        ],
    )
    def test_behind_text(self, content: bytes) -> None:
        found = find_glued_error(content)
        assert found is not None
        assert "x" == found.message

    def test_not_what_is_nested_too_deep(self) -> None:
        body = {"error": {"message": "x", "y": 1}}
        content = b"torn" + json.dumps(body).encode()
        assert find_glued_error(content) is not None
        assert find_glued_error(content.replace(b"1", b"[" * 70 + b"]" * 70)) is None

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

    def test_of_a_list(self) -> None:
        """Some gateways send a list with one error; a list of anything else is none, unless it is known to be one."""
        found = find_error([{"error": "x"}])
        assert found == describe_error([{"error": "x"}])
        assert found is not None
        assert ("x", [{"error": "x"}]) == (found.message, found.body)
        assert None is find_error([{"message": "Forbidden"}])
        assert "Forbidden" == describe_error([{"message": "Forbidden"}]).message

    def test_of_a_long_list_the_beginning_counts(self) -> None:
        """A message shows no more of it; the rest is not even looked at."""

        class Counted(list[Any]):
            looked_at = 0

            def __iter__(self) -> Iterator[Any]:
                for item in super().__iter__():
                    self.looked_at += 1
                    yield item

        steps = Counted(["x"] * 100_000)
        problems = Counted([{"loc": steps, "msg": "m"}] + ["n"] * 100_000)
        message = describe_error({"detail": problems}).message
        assert message.startswith("x.x.")
        assert message.endswith("x: m; " + "; ".join(["n"] * 19))
        assert (20, 20) == (steps.looked_at, problems.looked_at)

    @pytest.mark.parametrize("name", [None, "reasons", "detail"])
    def test_of_lists_inside_of_lists_few_items_count(self, name: str | None) -> None:
        """The number of items must not grow with each level."""
        read = 0

        class Leaf(int):
            def __str__(self) -> str:
                nonlocal read
                read += 1
                return "x"

        def nested(depth: int) -> Any:
            items = [nested(depth - 1) if depth else Leaf() for _ in range(12)]
            return items if name is None else {name: items}

        describe_error({"error": nested(4), "message": nested(3), "details": nested(3)})
        assert read < 10_000  # of 250,000


@pytest.mark.parametrize(("size", "said"), [(10, "the cause"), (70_000, "{error")])
def test_a_long_cause_is_not_decoded(size: int, said: str) -> None:
    raw = json.dumps({"error": {"message": "the cause"}, "x": "a" * size})
    error = describe_error({"error": {"message": "m", "metadata": {"raw": raw}}})
    assert error.message.replace('"', "").startswith(f"m: {said}")
