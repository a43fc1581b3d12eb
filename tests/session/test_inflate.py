"""Compressed bodies: whatever arrives however cut is unpacked, and never more than is allowed."""

from __future__ import annotations

import gzip
import zlib

import pytest

from gradient_async import Limits, StreamLimitError, StreamProtocolError
from gradient_async.session.inflate import PIECE, Gunzip, content_coding, decoded_error

TEXT = "".join(f"data: {number} née\n\n" for number in range(300)).encode()


def unpack(*pieces: bytes, limits: Limits | None = None) -> tuple[bytes, bool]:
    """Feed pieces; return what came of them, and whether the body may end there."""
    gunzip = Gunzip(limits or Limits())
    out = bytearray()
    for piece in pieces:
        gunzip.push(piece)
        while gunzip.pending:
            data = gunzip.read()
            assert len(data) <= PIECE
            out += data
    return bytes(out), gunzip.whole


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", None),
        ("identity", None),
        ("None", None),
        ("UTF-8", None),
        ("utf8", None),
        ("gzip, none", "gzip"),
        (" GZip ", "gzip"),
        ("x-gzip", "gzip"),
        ("identity, gzip", "gzip"),
        ("br", "br"),
        ("gzip, zstd", "gzip, zstd"),
        ("gzip, gzip", "gzip, gzip"),
    ],
)
def test_codings(header: str, coding: str | None) -> None:
    assert coding == content_coding(header)


def test_cuts_do_not_matter() -> None:
    """Whole, byte by byte, and cut once at every position; flushed after each event as servers do."""
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(
        packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)
        for event in TEXT.splitlines(keepends=True)[:60]
    )
    packed += packer.flush()
    whole = unpack(packed)
    assert (gzip.decompress(packed), True) == whole
    assert whole == unpack(*(packed[at : at + 1] for at in range(len(packed))))
    for cut in range(len(packed) + 1):
        assert whole == unpack(packed[:cut], packed[cut:])


def test_members_follow_one_another() -> None:
    body = gzip.compress(TEXT) + gzip.compress(b"") + gzip.compress(TEXT)
    assert (TEXT + TEXT, True) == unpack(body)
    assert (TEXT + TEXT, True) == unpack(*(body[at : at + 1] for at in range(len(body))))


@pytest.mark.parametrize("zeros", [1, 7, 300])
def test_zeros_behind_a_member_are_padding(zeros: int) -> None:
    """At the end, and between members, wherever the network cuts."""
    padding = bytes(zeros)
    body = gzip.compress(TEXT) + padding + gzip.compress(TEXT) + padding
    assert (TEXT + TEXT, True) == unpack(body)
    assert (TEXT + TEXT, True) == unpack(*(body[at : at + 1] for at in range(len(body))))
    with pytest.raises(StreamProtocolError, match="not gzip"):
        unpack(body + b"more")


def test_much_comes_in_pieces() -> None:
    big = bytes(range(256)) * 4096
    assert (big, True) == unpack(gzip.compress(big, 1))


def test_an_end_inside_a_member_shows() -> None:
    packed = gzip.compress(TEXT)
    assert unpack(packed[:-1])[1] is False
    assert unpack(packed + packed[:5]) == (TEXT, False)
    assert unpack() == (b"", True)


@pytest.mark.parametrize(
    "body", [b"data: plain\n\n", gzip.compress(TEXT) + b"data: plain\n\n", b"\x1f\x8b\xff" + bytes(9)]
)
def test_what_is_no_gzip_is_said_so(body: bytes) -> None:
    with pytest.raises(StreamProtocolError, match="not gzip"):
        unpack(body)


def test_a_bomb_goes_off_at_the_ratio() -> None:
    bomb = gzip.compress(bytes(16 * 1024 * 1024))
    with pytest.raises(StreamLimitError, match="decompression_ratio=200"):
        unpack(bomb)
    gunzip = Gunzip(Limits())
    gunzip.push(bomb)
    seen = 0
    with pytest.raises(StreamLimitError):
        while gunzip.pending:
            seen += len(gunzip.read())
    assert 1024 * 1024 <= seen + PIECE <= 1024 * 1024 + 2 * PIECE
    assert gunzip.pending is False
    assert len(unpack(bomb, limits=Limits(decompression_ratio=2000))[0]) == 16 * 1024 * 1024
    # Up to a mebibyte, whatever the ratio.
    assert len(unpack(gzip.compress(bytes(1024 * 1024)))[0]) == 1024 * 1024


def test_members_are_counted() -> None:
    empty = gzip.compress(b"")
    assert unpack(empty * 64) == (b"", True)
    with pytest.raises(StreamLimitError, match="gzip_members=64"):
        unpack(empty * 65)
    with pytest.raises(StreamLimitError, match="gzip_members=2"):
        unpack(empty * 3, limits=Limits(gzip_members=2))


PAGE = b"<p>Bad gateway \xc3\xa9</p>"


@pytest.mark.parametrize(
    ("content", "coding", "expected"),
    [
        (gzip.compress(PAGE), "gzip", PAGE),
        (gzip.compress(PAGE)[:-9], "gzip", PAGE),
        (gzip.compress(PAGE) + b"more", "gzip", PAGE),
        (gzip.compress(PAGE * 9999), "gzip", (PAGE * 9999)[:65536]),
        (gzip.compress(b""), "gzip", b""),
        (PAGE, "gzip", PAGE),
        (PAGE, "br", PAGE),
        (b"\x8b\x00\xff", "br", b""),
        (b"", "gzip", b""),
    ],
    ids=["whole", "cut", "more behind", "long", "empty gzip", "page", "another coding", "binary", "empty"],
)
def test_the_body_of_an_error_is_read_whatever_its_headers_say(
    content: bytes, coding: str, expected: bytes
) -> None:
    """A gateway may keep the headers of the server, and send a page of its own."""
    assert expected == decoded_error(content, coding, Limits())
