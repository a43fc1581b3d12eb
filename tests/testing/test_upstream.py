"""The recorder's side towards the server: the bodies of replies, however the network cuts them."""

from __future__ import annotations

import gzip
import zlib

import pytest
from feeding import feedings

from gradient_async.testing import Headers, Request
from gradient_async.testing.upstream import ReplyBody, parse_upstream

TEXT = b"data: 1\n\ndata: [DONE]\n\n"
GZIP = gzip.compress(TEXT, mtime=0)


def body(headers: dict[str, str] | None = None, status: int = 200, method: str = "POST") -> ReplyBody:
    request = Request(method, "/", "1.1", Headers(()), b"", 1, 0.0)
    return ReplyBody(request, status, Headers((headers or {}).items()))


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%X;ext=1\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def check(wire: bytes, expected: bytes, headers: dict[str, str]) -> None:
    """Feed a body in every way; the rest of the connection is not part of it."""
    for pieces in feedings(wire):
        reply = body(headers)
        assert expected == b"".join(map(reply.feed, pieces))
        assert (reply.done, reply.broken, reply.close()) == (True, False, False)
        assert b"" == reply.feed(b"")


@pytest.mark.parametrize("after", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_framing(after: bytes) -> None:
    """A body ends with its last chunk, after trailers, or at its length."""
    check(chunked(TEXT[:5], TEXT[5:]) + after, TEXT, {"transfer-encoding": "chunked"})
    check(chunked(TEXT)[:-2] + b"x-trailer: 1\r\n\r\n" + after, TEXT, {"transfer-encoding": "Chunked"})
    check(TEXT + after, TEXT, {"content-length": str(len(TEXT))})


@pytest.mark.parametrize(
    ("coding", "coded"),
    [("gzip", GZIP), ("X-Gzip", GZIP), ("deflate", zlib.compress(TEXT))],
)
def test_compression(coding: str, coded: bytes) -> None:
    """Compression is taken off."""
    check(coded, TEXT, {"content-encoding": coding, "content-length": str(len(coded))})
    check(chunked(coded[:3], coded[3:]), TEXT, {"content-encoding": coding, "transfer-encoding": "chunked"})


def test_members_and_padding() -> None:
    """Gzip in several pieces is one body; zeros behind it are nothing."""
    wire = GZIP + GZIP
    reply = body({"content-encoding": "gzip", "content-length": str(len(wire) + 9)})
    assert TEXT + TEXT == reply.feed(wire + bytes(9))
    assert reply.done


def test_until_the_close() -> None:
    """Without length and chunks the body ends with the connection; compression must be at its end then."""
    for headers, wire, whole in [
        ({}, TEXT, True),
        ({"content-length": "x"}, TEXT, True),
        ({"content-encoding": "gzip"}, GZIP, True),
        ({"content-encoding": "gzip"}, GZIP[:-1], False),
        ({"content-length": "99"}, TEXT, False),
        ({"transfer-encoding": "chunked"}, chunked(TEXT)[:-3], False),
    ]:
        reply = body(headers)
        assert TEXT == reply.feed(wire)
        assert (False, False, whole) == (reply.done, reply.broken, reply.close())


@pytest.mark.parametrize(
    ("headers", "wire", "before"),
    [
        ({"transfer-encoding": "chunked"}, b"2\r\nab\r\nzz\r\n", b"ab"),
        ({"transfer-encoding": "chunked"}, b"2\r\nabc\r\n", b"ab"),
        ({"transfer-encoding": "chunked"}, b"2\r\nab\r\n" + 2000 * b"0", b"ab"),
        ({"content-encoding": "gzip"}, b"no gzip at all", b""),
        ({"content-encoding": "gzip", "content-length": "30"}, GZIP[:30], TEXT[:0]),
    ],
)
def test_broken(headers: dict[str, str], wire: bytes, before: bytes) -> None:
    """Malformed framing or compression ends the body after what could be read."""
    reply = body(headers)
    found = reply.feed(wire)
    assert found.startswith(before)
    assert (False, True, False) == (reply.done, reply.broken, reply.close())


def test_no_body() -> None:
    """Some replies never have a body, whatever their headers say."""
    length = {"content-length": "5"}
    for reply in (
        body(status=204),
        body(length, 304),
        body(length, method="HEAD"),
        body({"content-length": "0"}),
    ):
        assert reply.done


@pytest.mark.parametrize("url", ["", "inference.do-ai.run", "ftp://x", "http://", "https:///v1"])
def test_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"upstream: give a URL such as https://inference\.do-ai\.run"):
        parse_upstream(url)


def test_no_port() -> None:
    with pytest.raises(ValueError, match="upstream: give a URL"):
        parse_upstream("http://x:0")
    with pytest.raises(ValueError, match=r"[Pp]ort"):
        parse_upstream("http://x:99999")


@pytest.mark.parametrize("url", ["https://user:pass@x", "https://x?key=k", "https://x/#a"])
def test_more_than_a_server(url: str) -> None:
    """A URL that may hold a key is refused, and the error does not show it."""
    with pytest.raises(ValueError, match="a key belongs to the client") as caught:
        parse_upstream(url)
    assert "pass" not in str(caught.value)
