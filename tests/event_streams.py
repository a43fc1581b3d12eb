"""Random event streams, and checks that they decode to the same chunks in blocks, in slices and event by event."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from feeding import one_by_one
from wire import DONE, delta, event, raw

from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamError
from gradient_async.types import ChatCompletionChunk, TextBatch

__all__ = [
    "FORMS",
    "TEXTS",
    "decode_in_slices",
    "decode_whole",
    "expect_same_chunks",
    "make_batch",
    "random_stream",
    "tolerant_events",
    "write_event",
]

Outcome = tuple[list[ChatCompletionChunk], str, int, bool, int, int]


def decode_whole(pieces: Iterable[bytes], **options: Any) -> Outcome:
    """Feed and close; return the chunks, the error and the attributes of the decoder."""
    decoder = ChunkDecoder(**options)
    found: list[ChatCompletionChunk] = []
    errors: list[StreamError] = []
    for step in (
        *(lambda piece=piece: decoder.feed(piece) for piece in pieces),
        decoder.close,
        decoder.close,
    ):
        try:
            found += step()
        except StreamError as error:
            errors.append(error)
    assert all(error is errors[0] for error in errors)
    reported, events = (str(errors[0]), errors[0].events) if errors else ("", 0)
    return found, reported, events, decoder.done, decoder.events, decoder.anomalies


def decode_in_slices(pieces: Iterable[bytes], **options: Any) -> tuple[Outcome, int]:
    """Do the same by `push` and `decode_slice`; also return the number of batches."""
    decoder = ChunkDecoder(**options)
    found: list[ChatCompletionChunk] = []
    errors: list[StreamError] = []
    batches = 0
    for piece in pieces:
        decoder.push(piece)
        while decoder.pending:
            try:
                batch = decoder.decode_slice()
            except StreamError as error:
                errors.append(error)
                break
            batches += type(batch) is TextBatch
            found += batch
    try:
        found += decoder.close()
    except StreamError as error:
        errors.append(error)
    reported, events = (str(errors[0]), errors[0].events) if errors else ("", 0)
    return (found, reported, events, decoder.done, decoder.events, decoder.anomalies), batches


def tolerant_events(wire: bytes) -> list[bytes]:
    """Cut a stream into its events, with a comment before each event and its data, so that they take the tolerant path."""
    *events, rest = wire.replace(b"\ndata: ", b"\n: tolerant\ndata: ").split(b"\n\n")
    first, *others = [*(block + b"\n\n" for block in events), rest]
    comment = b"" if first.startswith(b"\xef") else b": tolerant\n"  # nothing comes before a byte order mark
    return [comment + first, *(b": tolerant\n" + other for other in others)]


def expect_same_chunks(wire: bytes, cuts: Iterable[int] = (), **options: Any) -> int:
    """Expect a stream, whole and cut, to decode to the same chunks as its single events; return the number of batches."""
    expected = decode_whole(tolerant_events(wire), **options)
    assert expected == decode_whole([wire], **options)
    assert expected == decode_whole(one_by_one(wire), **options)
    at = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    pieces = [wire[a:b] for a, b in pairwise(at)]
    assert expected == decode_whole(pieces, **options)
    assert expected == decode_whole(pieces, keep_body=True, **options)
    cut, batches = decode_in_slices(pieces, **options)
    assert expected == cut
    # Whole events a read, two at a time, so that batches are short and many.
    ends = wire.split(b"\n\n")
    pairs = [b"\n\n".join(ends[n : n + 2]) + b"\n\n" * (n + 2 < len(ends)) for n in range(0, len(ends), 2)]
    assert wire == b"".join(pairs)
    paired, more = decode_in_slices(pairs, **options)
    assert expected == paired
    return batches + more


# Texts of events: bytes between the quotation marks of a JSON string, some of which are not valid there.
TEXTS = [
    b"a", b"b", b"", b" ", b"hello world", "é".encode(), "😀".encode(), b"\\u00e9", b"\\n", b'\\"', b"\\\\", b"\\ud83d",
    b"\\ude00", b"\\ud83d\\ude00", b"\x00", b"\x1f", b"\x7f", b"\t", b"\r", b"\n", b"\xff", b"\xc3", b"\xa9",
    b"\xed\xa0\xbd", b"\xef\xbb\xbf", "\u2028".encode(), "\x85".encode(), "\ufdd0".encode(), "\ufdd0a".encode(),
    b"content", b"i", b"m", b"0", b",", b":", b"}", b"]", b'","', b'"},"finish_reason":null,"x":{"y":"',
    b'a"},"finish_reason":null}]}\n\ndata: {"choices":[{"index":0,"delta":{"content":"b', b"data: ", b"\ndata: ", b"\n\n",
    b"\n\ndata: ", b"\n\ndata: [DONE]\n\n", b"\\u0022", b"\\", b"x" * 300,
]  # fmt: skip
# Forms of events: the bytes before and after the text. Most streams have one form.
FORMS = [
    (b'{"id":"i","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"', b'"},"finish_reason":null}]}'),
    (b'{"choices":[{"index":0,"delta":{"content":"', b'"}}]}'),
    (b'{"choices":[{"index":1,"delta":{"content":"', b'"}}]}'),
    (b'{"choices":[{"index":9,"delta":{"content":"', b'"}}]}'),
    (b'{"choices":[{"index":-1,"delta":{"content":"', b'"}}]}'),
    (b'{"choices":[{"delta":{"reasoning_content":"', b'"}}]}'),
    (b'{"choices":[{"delta":{"reasoning":"', b'"}}]}'),
    (b'{"choices":[{"delta":{"reasoning":"r","reasoning_content":"', b'"}}]}'),
    (b'{"choices":[{"delta":{"reasoning":"', b'","reasoning_content":null,"content":""}}]}'),
    (b'{"choices":[{"delta":{"reasoning":"', b'","content":"c"}}]}'),
    (b'{"choices":[{"delta":{"role":"assistant","reasoning_content":"","content":"', b'"}}]}'),
    (b'{"choices":[{"delta":{"refusal":"', b'"}}]}'),
    (b'{"choices":[{"delta":{"content":"c","refusal":"', b'"}}]}'),
    (b'{"choices":[{"delta":{"content":"', b'","content":"b"}}]}'),
    (b'{"choices":[{"delta":{"content":"b","content":"', b'"}}]}'),
    (b'{"choices":[{"delta":{"content":"b"}}],"x":"', b'"}'),
    (b'{"x":"b","choices":[{"delta":{"content":"', b'"}}]}'),
    (b'{"id":"', b'","choices":[{"delta":{"content":"b"}}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"}},{"delta":{"content":"b"},"index":1}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"},"finish_reason":""}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"},"finish_reason":"stop"}]}'),
    (b'{"choices":[{"delta":{"content":"b"},"finish_reason":"', b'"}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"},"finish_reason":"null"}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"},"message":{"content":"b"}}]}'),
    (b'{"choices":[{"message":{"content":"', b'"}}]}'),
    (b'{"choices":[{"delta":{"role":"assistant"},"message":{"content":"', b'"},"finish_reason":"stop"}]}'),
    (b'{"choices":[{"index":1,"text":"', b'"}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"},"usage":{"total_tokens":1}}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"}}],"x_groq":{"usage":{"total_tokens":2}}}'),
    (b'{"choices":[{"delta":{"content":"', b'"}},{"delta":{},"index":1,"text":"b"}]}'),
    (b'{"choices":[{"delta":{"content":"', b'","tool_calls":[]}}]}'),
    (b'{"choices":[{"delta":{"content":"', b'","tool_calls":[{"index":0,"id":"x"}]}}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"},"logprobs":{"content":[]}}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"},"logprobs":null}],"usage":{"total_tokens":1}}'),
    (b'{"choices":[{"delta":{"content":"', b'"}}],"usage":null,"error":null,"service_tier":"t"}'),
    (b'{"choices":[{"delta":{"content":"', b'"}}],"error":"e"}'),
    (b'{"choices":[{"delta":{"content":"', b'"}}],"created":"7"}'),
    (b' {"choices":[{"delta":{"content":"', b'"}}]} '),
    (b'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"', b'"}}]}}]}'),
    (b'{"choices":[{"delta":{"tool_calls":[{"index":999,"function":{"arguments":"', b'"}}]}}]}'),
    (b'{"choices":[{"delta":{"content":"","tool_calls":[{"function":{"arguments":"', b'"}}]},"index":2}]}'),
    (b'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"', b'"}}]}}]}'),
]  # fmt: skip
# Other bytes that a stream may contain.
OTHERS = [
    DONE, b"data: [DONE]", b"data:[DONE]\n\n", b": c\n\n", b": c\n", b"\n", b"data: null\n\n", b"data:\n\n", b"data: \n\n",
    b"event: error\n", b"event: x\n", b"id: 1\n", raw('{"error":"x"}'), raw("[1]"), raw("{"), b"data: {\n", b"data: }\n\n",
    raw('{"choices":[],"usage":{"total_tokens":3}}'), b"\xef\xbb\xbf", b"data: ", b"data:",
    raw('{"choices":[{"delta":{},"finish_reason":"stop","usage":{"total_tokens":4}}]}'), raw('"[DONE]"'), raw("ping"),
    raw('{"choices":[{"delta":{"role":"assistant","content":""}}]}'), raw('{"status":"queued"}'), raw('{"answer":"b"}'),
    raw('{"choices":[{"delta":{},"finish_reason":"stop"}],"x_groq":{"error":"e"}}'), raw('{"candidates":[]}'),
    raw('{"choices":[],"error_code":7}'), b'error: {"message":"e"}\n', b'{"error":"e"}\n', b"<p>e</p>\n", b"foo: 1\n",
    b'data: {"choices":[{"delta":{"content":"b"}}]}\n', b"event: ping\n", raw('{"choices":[{"delta":{"content":"b'),
]  # fmt: skip


def write_event(form: tuple[bytes, bytes], content: bytes, ending: int = 0) -> bytes:
    """Write an event; ``ending`` chooses its line ends and whether a space follows the colon."""
    head, end = {1: (b"data:", b"\n\n"), 2: (b"data: ", b"\r\n\r\n"), 3: (b"data: ", b"\r\r")}.get(
        ending, (b"data: ", b"\n\n")
    )
    return head + content.join(form) + end


def random_stream(dice: random.Random) -> tuple[bytes, list[int], dict[str, Any]]:
    """Make a random stream with batches and other events, places to cut it, and options of a decoder."""
    # A stream has one form, or the forms of several choices that take turns.
    usual = [[dice.choice(FORMS)], FORMS[:1], FORMS[1:4]][dice.randrange(3)]
    odd = dice.choice([0.02, 0.2, 0.5])
    wire = b"".join(
        dice.choice(OTHERS)
        if dice.random() < odd / 2
        else write_event(
            dice.choice(FORMS) if dice.random() < odd else dice.choice(usual),
            dice.choice(TEXTS) if dice.random() < odd else dice.choice(TEXTS[:7]),
            dice.randrange(4) if dice.random() < odd / 4 else 0,
        )
        for _ in range(dice.randrange(16))
    )
    options: dict[str, Any] = {
        "strict": dice.random() < 0.3,
        "on_bad_event": dice.choice(["raise", "skip"]),
        "n": dice.choice([None, 1, 2]),
        "limits": Limits(
            choices=dice.choice([1, 4]),
            event_bytes=dice.choice([60, 120, 400, None]),
            line_bytes=dice.choice([130, None]),
        ),
    }
    return wire, [dice.randrange(len(wire) + 1) for _ in range(dice.randrange(4))], options


def make_batch(*texts: str, name: str = "content", index: int = 0, **more: Any) -> TextBatch:
    """Decode events with these texts to a batch."""
    first, *others = (event(delta(index, **more, **{name: content})) for content in ("a", *texts))
    decoder = ChunkDecoder()
    decoder.feed(first * 2)
    decoder.push(b"".join(others))
    batch = decoder.decode_slice()
    assert isinstance(batch, TextBatch)
    assert [*texts] == batch.texts
    return batch
