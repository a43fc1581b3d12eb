"""`ChunkDecoder` turns bytes into chunks: what is usual, `[DONE]`, the end, the limits."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from event_decoding import held_bytes
from feeding import feedings, one_by_one
from wire import DONE, contents, decoded, delta, event, raw, refused, run, text

from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamLimitError, StreamProtocolError, StreamServerError


class TestUsual:
    def test_chunks_come_as_they_are(self) -> None:
        wire = event(delta(role="assistant", content="")) + text("Hel") + text("lo")
        last = event(
            {"index": 0, "delta": {}, "finish_reason": "stop"}, usage={"prompt_tokens": 1, "total_tokens": 3}
        )
        chunks, decoder = decoded(wire + last + DONE)
        head = {"id": "c-1", "created": 7, "model": "m", "object": "chat.completion.chunk"}
        assert [
            {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
            {**head, "choices": [{"index": 0, "delta": {"content": "Hel"}}]},
            {**head, "choices": [{"index": 0, "delta": {"content": "lo"}}]},
            {
                **head,
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 3},
            },
        ] == chunks
        assert (True, 4, 0) == (decoder.done, decoder.events, decoder.anomalies)

    def test_usage_chunk_has_no_choices(self) -> None:
        chunks, decoder = decoded(text("a") + event(usage={"total_tokens": 5}) + DONE)
        assert [[], {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 5}] == [
            chunks[1]["choices"],
            chunks[1]["usage"],
        ]
        assert 0 == decoder.anomalies

    def test_nothing(self) -> None:
        chunks, decoder = decoded(b"")
        assert ([], False, 0) == (chunks, decoder.done, decoder.events)
        fresh = ChunkDecoder()
        assert (False, None, 0) == (fresh.done, fresh.error, fresh.pending)

    def test_what_is_no_content_makes_no_chunk(self) -> None:
        """Comments, blocks without data, empty data and null are keep-alives."""
        wire = (
            b": hi\n\nevent: ping\n\nretry: 3\n\ndata:\n\ndata: \n\ndata:  \t \n\nid: 7\n\ndata: null\n\n\n\n"
        )
        chunks, decoder = decoded(wire + text("a") + wire + DONE)
        assert ["a"] == contents(chunks)
        assert (True, 0) == (decoder.done, decoder.anomalies)

    @pytest.mark.parametrize(
        "wire",
        [
            text("a") + text("b"),
            (text("a") + text("b")).replace(b"\n", b"\r\n"),
            (text("a") + text("b")).replace(b"\n", b"\r"),
            (text("a") + text("b")).replace(b"}\n\n", b"}\r\n\n"),
            b"\xef\xbb\xbf" + text("a") + text("b"),
            (text("a") + text("b")).replace(b"data: ", b"data:"),
            (text("a") + text("b")).replace(b"data: {", b"id: 1\nevent: message\nfoo: 2\ndata: {"),
            (text("a") + text("b")).replace(b", ", b",\ndata: "),
            (text("a") + text("b")).replace(b"}\n\n", b"}  \n\n"),
            text("a") + b"\n\n: x\n\n" + text("b"),
            text("a") + text("b")[:-1],
            text("a") + text("b")[:-2],
        ],
    )
    def test_frames_of_every_kind(self, wire: bytes) -> None:
        """Line ends, spaces, fields, lines and a missing last blank line change nothing."""
        usual, _ = decoded(text("a") + text("b"))
        assert usual == decoded(wire)[0]

    def test_event_of_any_name_but_error_is_a_chunk(self) -> None:
        chunks, _ = decoded(b"event: completion\n" + text("a"))
        assert ["a"] == contents(chunks)

    @pytest.mark.parametrize(
        "blank", [b"\n\n", b"\r\n\r\n", b"\r\n\r", b"\r\r", b"\r\n\n", b"\n\r", b"\n\r\n"]
    )
    @pytest.mark.parametrize("before", [b"", text("a"), b": x\n", b"id: 1\r\n"])
    def test_a_chunk_comes_with_its_blank_line(self, before: bytes, blank: bytes) -> None:
        """At once, whatever ends the lines: nobody waits for bytes that are not needed."""
        wire = before + text("b").replace(b"\n\n", blank)
        for pieces in feedings(wire):
            decoder = ChunkDecoder()
            chunks = [chunk.to_dict() for piece in pieces for chunk in decoder.feed(piece)]
            assert "b" == contents(chunks)[-1]

    @pytest.mark.parametrize("size", [10, 7_900, 8_100, 9_000, 20_000, 300_000])
    def test_event_of_any_size(self, size: int) -> None:
        """Sizes around those of slices and reads."""
        wire = text("é" * size) + text("b") + DONE
        for step in (len(wire), 8192, 1000):
            chunks, error = run(ChunkDecoder(), [wire[at : at + step] for at in range(0, len(wire), step)])
            assert (["é" * size, "b"], None) == (contents(chunks), error)

    @pytest.mark.parametrize("done", [b"", DONE])
    def test_usual_events_are_decoded_together(self, done: bytes) -> None:
        """What servers send nearly all the time costs less than one call of Python an event."""
        wire = (event(delta(content="a")) + event(delta(1, reasoning_content="b"))) * 20
        made = 0

        def count(_frame: FrameType, event: str, _arg: object) -> None:
            nonlocal made
            made += event == "call"

        decoder = ChunkDecoder()
        decoder.feed(text("first") * 2)
        sys.setprofile(count)
        try:
            chunks = decoder.feed(wire + done)
        finally:
            sys.setprofile(None)
        assert 40 == len(chunks)
        assert made < 20

    def test_unknown_fields_and_reasons_pass(self) -> None:
        choice = {
            "index": 0,
            "delta": {"content": "a", "obfuscation": "x"},
            "finish_reason": "eos",
            "seed": 3,
        }
        chunks, decoder = decoded(event(choice, provider="p", x_groq={"id": 1}))
        assert {"index": 0, "delta": {"content": "a"}, "finish_reason": "eos"} == chunks[0]["choices"][0]
        assert 0 == decoder.anomalies

    def test_duplicate_keys(self) -> None:
        """The last of equal keys counts, on both paths."""
        wire = raw('{"id":"a","id":"b","choices":[{"delta":{"content":"x","content":"y"}}]}')
        assert (["y"], "b") == (contents(decoded(wire)[0]), decoded(wire)[0][0]["id"])
        assert ["y"] == contents(decoded(wire.replace(b'"b"', b'"\xff"'))[0])

    def test_control_characters_stay(self) -> None:
        assert ["\x00\x1b[0m"] == contents(decoded(text("\x00\x1b[0m"))[0])

    def test_two_objects_on_a_line_are_no_chunks(self) -> None:
        """A line holds one JSON value; two of them are not JSON, also among other events."""
        one = '{"id":"a","choices":[{"delta":{"content":"x"}}]}'
        for wire in (raw(one + one), raw(one + " " + one)):
            chunks, error = refused(text("a") + wire + text("b"))
            assert ["a"] == contents(chunks)
            assert isinstance(error, StreamProtocolError)


class TestDone:
    @pytest.mark.parametrize(
        "done",
        [
            DONE,
            b"data:[DONE]\n\n",
            b"data: [DONE] \n\n",
            b"data:\t[DONE]\t\n\n",
            b"data: [DONE]\r\n\r\n",
            b"data: [DONE]",
            b'data: "[DONE]"\n\n',
            b'event: end\ndata: "[DONE]"\n\n',
            b'data: "[DONE]"',
        ],
    )
    def test_ends_the_stream(self, done: bytes) -> None:
        """With spaces, in quotation marks, or without its blank line."""
        chunks, decoder = decoded(text("a") + done)
        assert (["a"], True, 1) == (contents(chunks), decoder.done, decoder.events)

    def test_what_follows_is_ignored(self) -> None:
        wire = text("a") + DONE + text("b") + b"data: {nonsense\n\n" + raw('{"error":"x"}') + b"x" * 100
        chunks, decoder = decoded(wire)
        assert (["a"], True, 1) == (contents(chunks), decoder.done, decoder.events)
        assert [] == decoder.feed(text("c"))
        assert 0 == decoder.pending

    @pytest.mark.parametrize("more", [text("b") * 500, text("b" * 9000)[:-1], b"data: {nonsense\n\n" * 1000])
    @pytest.mark.parametrize("before", [b"", b": tolerant\n\n"])
    def test_nor_is_what_follows_in_the_slices_to_come(self, before: bytes, more: bytes) -> None:
        wire = before + text("a") + DONE + more
        for pieces in ([wire], [wire[:200], wire[200:]]):
            decoder = ChunkDecoder()
            chunks, error = run(decoder, pieces)
            assert (["a"], None, 1) == (contents(chunks), error, decoder.events)
            assert (0, True) == (decoder.pending, decoder.done)

    @pytest.mark.parametrize(
        "data", [b"data: [DONE\n\n", b"data: DONE\n\n", b'data: "DONE"\n\n', b"data: [DONE]x\n\n"]
    )
    def test_nothing_else_does(self, data: bytes) -> None:
        _, error = refused(data)
        assert isinstance(error, StreamProtocolError)


class TestClose:
    def test_a_torn_event_is_dropped(self) -> None:
        whole = text("b")
        for end in range(7, len(whole) - 3):
            wire = text("a") + whole[:end]
            for pieces in ([wire], one_by_one(wire)):
                decoder = ChunkDecoder()
                chunks, error = run(decoder, pieces)
                assert (["a"], None) == (contents(chunks), error)
                assert (1, False) == (decoder.events, decoder.done)

    def test_twice(self) -> None:
        decoder = ChunkDecoder()
        decoder.feed(text("a")[:-1])
        assert ["a"] == [choice.delta.content for chunk in decoder.close() for choice in chunk.choices]
        assert [] == decoder.close()

    def test_what_was_pushed_is_decoded_first(self) -> None:
        """Bytes that `decode_slice` has not decoded yet are not lost."""
        decoder = ChunkDecoder()
        decoder.push(text("a" * 9000) + text("b") + text("c")[:-1])
        assert ["a" * 9000, "b", "c"] == [chunk.choices[0].delta.content for chunk in decoder.close()]

    @pytest.mark.parametrize(
        "last", [b"event: error\ndata: upstream died", b'data: {"error":"upstream died"}\n']
    )
    def test_an_error_without_its_blank_line_is_raised(self, last: bytes) -> None:
        chunks, error = refused(text("a") + last)
        assert ["a"] == contents(chunks)
        assert isinstance(error, StreamServerError)
        assert "upstream died" in error.message

    def test_chunks_before_an_error_come_first(self) -> None:
        decoder = ChunkDecoder()
        decoder.push(text("a" * 9000) + raw('{"error":"x"}')[:-1])
        assert 1 == len(decoder.close())
        with pytest.raises(StreamServerError):
            decoder.close()

    def test_an_error_that_was_pushed_comes_after_the_chunks(self) -> None:
        decoder = ChunkDecoder()
        decoder.push(text("a") + raw('{"error":"x"}') + text("b"))
        assert ["a"] == [chunk.choices[0].delta.content for chunk in decoder.close()]
        with pytest.raises(StreamServerError):
            decoder.close()

    @pytest.mark.parametrize("before", [b"", text("a")])
    def test_what_was_pushed_behind_an_error_is_dropped(self, before: bytes) -> None:
        decoder = ChunkDecoder()
        chunks, error = run(decoder, [before + raw('{"error":"x"}') + text("b") * 500])
        assert (["a"] if before else [], "StreamServerError") == (contents(chunks), type(error).__name__)
        assert 0 == decoder.pending

    def test_nothing_comes_after_an_error(self) -> None:
        """Not the event after it either, whose blank line was still to come."""
        decoder = ChunkDecoder()
        decoder.push(text("a") + raw('{"error":"x"}') + text("b" * 9000)[:-1])
        assert ["a"] == [chunk.choices[0].delta.content for chunk in decoder.close()]

    def test_an_error_far_behind_is_raised_at_once_if_no_chunk_came(self) -> None:
        """Not only what the first slice holds is looked at."""
        decoder = ChunkDecoder()
        with pytest.raises(StreamServerError):
            decoder.feed(b": keep-alive\n\n" * 2000 + raw('{"error":"x"}'))

    def test_a_limit_of_the_last_line(self) -> None:
        decoder = ChunkDecoder(limits=Limits(event_bytes=20))
        decoder.feed(b"data: 01234567890123456789\ndata")
        with pytest.raises(StreamLimitError) as first:
            decoder.close()
        with pytest.raises(StreamLimitError) as second:
            decoder.close()
        assert first.value is second.value is decoder.error


class TestLimits:
    def test_of_an_event(self) -> None:
        wire = text("x" * 50)
        size = len(wire) - len(b"data: \n\n")
        chunks, _ = decoded(wire * 2, limits=Limits(event_bytes=size))
        assert 2 == len(chunks)
        chunks, error = refused(text("a") + wire, limits=Limits(event_bytes=size - 1))
        assert ["a"] == contents(chunks)
        assert isinstance(error, StreamLimitError)
        assert f"max_event_bytes={size - 1}" in error.message
        decoder = ChunkDecoder(limits=Limits(event_bytes=size - 1))
        decoder.feed(text("a"))
        with pytest.raises(StreamLimitError) as raised:
            decoder.feed(wire)
        assert (1, raised.value, 0) == (raised.value.events, decoder.error, decoder.pending)
        decoder = ChunkDecoder(limits=Limits(event_bytes=size - 1))
        assert 1 == len(decoder.feed(text("a") + wire))
        assert isinstance(decoder.error, StreamLimitError), "known as soon as the bytes are"
        assert 1 == error.events

    def test_of_a_line(self) -> None:
        wire = text("x" * 50)
        assert 2 == len(decoded(wire * 2, limits=Limits(line_bytes=len(wire) - 2))[0])
        chunks, error = refused(text("a") + wire, limits=Limits(line_bytes=len(wire) - 3))
        assert ["a"] == contents(chunks)
        assert isinstance(error, StreamLimitError)

    def test_off(self) -> None:
        decoder = ChunkDecoder(limits=Limits(event_bytes=None, line_bytes=None))
        wire = text("x" * (17 << 20))
        assert 1 == len(decoder.feed(wire))
        assert 1 == len(decoder.feed(wire[:5_000_000]) + decoder.feed(wire[5_000_000:]))

    def test_default_is_16_mib(self) -> None:
        with pytest.raises(StreamLimitError):
            ChunkDecoder().feed(text("x" * (16 << 20)))

    def test_endless_comments_are_held_nowhere(self) -> None:
        decoder = ChunkDecoder(limits=Limits(line_bytes=None))
        for _ in range(2000):
            decoder.feed(b": keep-alive\n")
        for _ in range(2000):
            decoder.feed(b":" + b"x" * 100)
        assert len(decoder._tail) + held_bytes(decoder._events) < 20_000
        assert 1 == len(decoder.feed(b"\n" + text("a")))
