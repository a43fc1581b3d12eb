"""Which requests are equal, where others differ, and what is not written of any."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from peer import request_bytes

from gradient_async.testing import Request
from gradient_async.testing.matching import RecordedRequest, Redaction, nearest
from gradient_async.testing.request import parse_head

KEY = "sk-do-v1-0123456789abcdefghij"
CODED = base64.b64encode(KEY.encode()).decode()


def request(body: object = None, target: str = "/v1/chat/completions", **headers: str) -> Request:
    head, _, data = request_bytes(target, body, **headers).partition(b"\r\n\r\n")
    made = parse_head(head + b"\r\n\r\n", 1)
    made.body = data
    return made


def digest(body: object, *ignore: str, target: str = "/v1/chat/completions", **headers: str) -> str:
    recorded = Redaction(request(body, target, **headers)).request
    recorded.seal(ignore)
    return recorded.digest


class TestDigest:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (b'{"a": 1, "b": [true]}', b'{"b":[true],"a":1}'),  # the order of keys, and white space
            (b'{"t": 1.0, "u": 100}', b'{"t": 1, "u": 1e2}'),  # numbers by value
            (b'{"t": 0.10}', b'{"t": 1e-1}'),
            (b'{"t": -0.0}', b'{"t": 0}'),
            (b'{"s": "\\u0041\\ud83d\\ude00"}', '{"s": "A😀"}'.encode()),
            (b"", None),
        ],
    )
    def test_equal(self, one: bytes, other: bytes | None) -> None:
        assert digest(one) == digest(other) if other else digest(None)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (b'{"a": 1}', b'{"a": 2}'),
            (b'{"a": 1}', b'{"a": true}'),
            (b'{"a": 1}', b'{"a": "1"}'),
            (b'{"a": null}', b"{}"),
            (b'{"a": [1, 2]}', b'{"a": [2, 1]}'),
            (b'{"a": 0.1}', b'{"a": 0.1000001}'),
            (b"text", b"another text"),
            (b'{"a": NaN}', b'{"a": Infinity}'),  # no JSON, so they are texts
            (b'{"a": 1e999}', b'{"a": 1e998}'),  # larger than any number
            (b"\xff", b"\xfe"),
        ],
    )
    def test_different(self, one: bytes, other: bytes) -> None:
        assert digest(one) != digest(other)

    def test_method_path_and_query(self) -> None:
        """Method and path count; the query counts in any order."""
        assert digest(b"{}", target="/a?x=1&y=2") == digest(b"{}", target="/a?y=2&x=1")
        different = [("/a", b"{}"), ("/b", b"{}"), ("/a?x=1", b"{}"), ("/a?x=", b"{}"), ("/a", b"")]
        assert 5 == len({digest(body or None, target=target) for target, body in different})

    def test_is_sha256(self) -> None:
        assert 64 == len(digest(b"{}"))

    def test_deep(self) -> None:
        """A body of any depth has a digest."""
        deep = b"[" * 100_000 + b"]" * 100_000
        middle = b"[" * 900 + b"]" * 900
        assert 2 == len({digest(deep), digest(middle)})

    @pytest.mark.parametrize(
        "path",
        ["user", "metadata.run", "messages.name", "messages.0.name", "tags.1"],
    )
    def test_ignore(self, path: str) -> None:
        """`ignore` leaves fields out, by dotted paths too; in a list, of every item or of one."""
        body: dict[str, Any] = {
            "user": "a",
            "metadata": {"run": 1, "kept": 2},
            "messages": [{"name": "a"}, {"role": "user"}, 5],
            "tags": ["x", "y"],
        }
        changed = json.loads(json.dumps(body))
        match path.split("."):
            case ["user"]:
                changed["user"] = "b"
            case ["metadata", _]:
                del changed["metadata"]["run"]
            case ["messages", *_]:
                changed["messages"][0]["name"] = "b"
            case _:
                changed["tags"][1] = "z"
        assert digest(body) != digest(changed)
        assert digest(body, path) == digest(changed, path)
        assert digest(body, path) != digest({**body, "more": 1}, path)

    def test_ignore_what_is_not_there(self) -> None:
        for body in ({"a": 1}, [1], b"text", None):
            assert digest(body) == digest(body, "b", "a.b.c", "0.x")

    def test_keys_do_not_count(self) -> None:
        """A request with the key of another person, in its header and in its body, is the same request."""
        one, other = (
            digest({"user": key}, target=f"/v1?api_key={key}", authorization=f"Bearer {key}")
            for key in (KEY, "another-key-0123")
        )
        assert one == other


class TestNearest:
    RECORDED = [
        ("0001.json", RecordedRequest("GET", "/v1/models")),
        (
            "0002.sse",
            RecordedRequest(
                "POST", "/v1/chat/completions", body={"model": "m", "messages": [{"content": "a"}]}
            ),
        ),
        (
            "0003.sse",
            RecordedRequest("POST", "/v1/chat/completions", "x=1", body={"model": "n", "stream": True}),
        ),
    ]

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            (
                {"model": "m", "messages": [{"content": "b"}]},
                "0002.sse: $.messages[0].content differs: 'a' recorded, 'b' asked",
            ),
            (
                {"model": "m", "messages": [{"content": "a"}, {"content": "b"}]},
                '0002.sse: $.messages[1] differs: nothing recorded, {"content": "b"} asked',
            ),
            ({"model": "m"}, '0002.sse: $.messages differs: [{"content": "a"}] recorded, nothing asked'),
            (
                {"model": "m", "messages": [{"content": "a"}], "stream": True},
                "0002.sse: $.stream differs: nothing recorded, true asked",
            ),
            (
                {"model": "m", "messages": [{"content": "a" + 100 * "b" + "c" + 100 * "d"}]},
                f"0002.sse: $.messages[0].content differs: 'a' recorded, '{'a' + 59 * 'b'}'… asked",
            ),
            (list(range(100)), "0002.sse: $ differs: "),
        ],
    )
    def test_first_difference(self, asked: Any, message: str) -> None:
        """A mismatch names the nearest recording, and where it differs."""
        found = nearest(RecordedRequest("POST", "/v1/chat/completions", body=asked), self.RECORDED, ())
        assert found.startswith(f"nearest is {message}")

    def test_long_texts(self) -> None:
        """Of long texts the place is shown where they differ."""
        old, new = (RecordedRequest("POST", "/", body=500 * "a" + end + 500 * "b") for end in "xy")
        found = nearest(new, [("f", old)], ())
        assert f"'{30 * 'a'}x{29 * 'b'}'… recorded, …'{30 * 'a'}y" in found

    def test_elsewhere(self) -> None:
        """A request for the same path and method is nearer than any other; the path, method or query is named too."""
        for asked, message in [
            (RecordedRequest("POST", "/v1/embeddings"), "path differs: '/v1/models' recorded"),
            (RecordedRequest("PUT", "/v1/models"), "0001.json: method differs: 'GET' recorded, 'PUT' asked"),
            (
                RecordedRequest("POST", "/v1/chat/completions", "x=2", body={"model": "n", "stream": True}),
                "0003.sse: query differs: 'x=1' recorded, 'x=2' asked",
            ),
        ]:
            assert message in nearest(asked, self.RECORDED, ())

    def test_ignored(self) -> None:
        """What is ignored is no difference."""
        asked = RecordedRequest("POST", "/v1/chat/completions", "x=1", body={"model": "o", "stream": False})
        assert "nearest is 0003.sse: $.stream" in nearest(asked, self.RECORDED, ["model"])

    def test_nothing(self) -> None:
        assert "nothing is recorded" == nearest(RecordedRequest("GET", "/"), [], ())


class TestKeys:
    @pytest.mark.parametrize(
        "headers",
        [
            {"authorization": f"Bearer {KEY}"},
            {"authorization": KEY},
            {"x_api_key": KEY},
            {"x_goog_api_key": KEY},
            {"cookie": f"a=b; session={KEY}"},
        ],
    )
    def test_of_headers(self, headers: dict[str, str]) -> None:
        """The caller's key, from whichever header, is nowhere in a recorded request; no header is."""
        found = Redaction(
            request(
                {"user": f"my key is {KEY}!", KEY: [KEY], "messages": [{"content": CODED}]},
                f"/v1/{KEY}?x={KEY}",
                **headers,
            )
        ).request
        assert KEY not in str(found)
        assert "my key is ***!" == found.body["user"]
        assert ("/v1/***", "x=***") == (found.path, found.query)
        assert CODED[:16] not in str(found)

    @pytest.mark.parametrize("name", ["api_key", "key", "access_token", "X-Api-Key"])
    def test_of_the_query(self, name: str) -> None:
        """A key in the query is left out, however short, and is known in the body and in the reply."""
        redaction = Redaction(request({"a": "hunter2hunter2"}, f"/v1?{name}=hunter2hunter2&b=c"))
        assert f"{name}=***&b=c" == redaction.request.query
        assert {"a": "***"} == redaction.request.body
        assert (b"my ***", [6, 0]) == redaction.reads(b"my hunter2hunter2", [3 + 1, 13])
        assert f"{name}=***" == Redaction(request({}, f"/v1?{name}=k")).request.query

    @pytest.mark.parametrize(
        "name", ["api_key", "apiKey", "authorization", "access_token", "client_secret", "Password"]
    )
    def test_of_the_body(self, name: str) -> None:
        """A field that holds a key is left out."""
        body = {
            "tools": [{"server": {name: "hunter2hunter2"}}],
            "prompt_cache_key": "hunter3hunter3",
            "max_tokens": 5,
        }
        found = Redaction(request(body)).request.body
        assert {"server": {name: "***"}} == found["tools"][0]
        assert ("hunter3hunter3", 5) == (found["prompt_cache_key"], found["max_tokens"])

    @pytest.mark.parametrize(
        "key",
        [
            "sk-abcdefgh",
            "sk-proj-0123456789_-abc",
            "sk-ant-api03-abc",
            "dop_v1_" + 64 * "a",
            "doo_v1_0123",
            "dor_v1_0123",
        ],
    )
    @pytest.mark.parametrize("before", ["", " ", '"', "=", "é", "(", ","])
    def test_of_others(self, key: str, before: str) -> None:
        """Anything that looks like a key is left out, also without having been sent as one."""
        redaction = Redaction(request(f"{before}{key}".encode(), f"/v1?x={key}"))
        assert ("x=***", False) == (redaction.request.query, key in redaction.request.body)
        wire = f"data: {before}{key}\n".encode()
        assert (f"data: {before}***\n".encode(), [len(wire) - len(key) + 3]) == redaction.reads(
            wire, [len(wire)]
        )

    def test_after_an_escape(self) -> None:
        r"""A key after a line break in JSON, which is written ``\n``, is found."""
        data = b'{"content": "a\\nsk-0123456789abcdef"}'
        assert b'{"content": "a\\n***"}' == Redaction(request({})).reads(data, [])[0]

    def test_words(self) -> None:
        """Words are no keys, nor are short keys such as those of servers without a key."""
        text = "a risk-averse task-force asks any desk-bound sk-learn user of disk-0"
        redaction = Redaction(request({"a": text}, authorization="Bearer any"))
        assert {"a": text} == redaction.request.body
        assert (text.encode(), [5]) == redaction.reads(text.encode(), [5])

    def test_split_over_reads(self) -> None:
        """A key that is cut by reads, wherever, is left out, and the sizes of the reads are corrected."""
        redaction = Redaction(request({}, authorization=f"Bearer {KEY}"))
        wire = f"ab{KEY} cd{KEY}{KEY} ef".encode()
        for first in range(len(wire) + 1):
            for second in range(first, len(wire) + 1):
                data, sizes = redaction.reads(wire, [first, second - first, len(wire) - second])
                assert b"ab*** cd*** ef" == data
                assert sum(sizes) == len(data)
                assert min(sizes) >= 0
                assert first > 2 or sizes[0] == first

    def test_bytes_stay(self) -> None:
        """Bytes that are no text stay as they are."""
        wire = bytes(range(256)) + KEY.encode() + bytes(range(255, -1, -1))
        data, sizes = Redaction(request({}, authorization=KEY)).reads(wire, [len(wire)])
        assert bytes(range(256)) + b"***" + bytes(range(255, -1, -1)) == data
        assert [len(data)] == sizes
