"""Changes bytes as bugs, proxies and attackers do."""

from __future__ import annotations

import random

__all__ = ["mutate"]

# What parsers stumble over.
TOKENS = [
    b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"1" + b"0" * 400, b"9223372036854775808",
    b'"\\ud83d"', b'"\\u0000"', b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"[]", b"{}", b"[" * 500, b'{"a":' * 200,
    b'""', b"\r", b"\n", b"\r\n", b"\n\n", b"\x00", b"data:", b"data: [DONE]\n\n", b"event: error\n", b"id: \x00\n", b":",
    b'"choices":null,', b'"error":', b'"index":-1', b'"index":1000000000', b'"delta":null', b",", b"}", b"]", b'"',
    b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"zz\r\n", b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n", b"\x1f\x8b\x08",
    b"Transfer-Encoding: chunked\r\n",
]  # fmt: skip


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Return the data with a few changes: bytes flipped, dropped, doubled, moved, and tokens put in.

    Args:
        data: What to change.
        dice: What to choose by.
    """
    changed = bytearray(data)
    for _ in range(1 + int(dice.expovariate(0.5))):
        at = dice.randrange(len(changed) + 1)
        size = 1 + int(dice.expovariate(0.1))
        match dice.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = changed[at : at + size]
            case 3:
                start = dice.randrange(len(changed) + 1)
                changed[at:at] = changed[start : start + size]
            case 4:
                changed[at:at] = dice.choice(TOKENS)
            case _:
                changed[at : at + size] = dice.choice(TOKENS)
    return bytes(changed)
