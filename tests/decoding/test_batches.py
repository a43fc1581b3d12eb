"""Batches: events that are alike but for their text decode to what each of them decodes to by itself."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from event_streams import (
    FORMS,
    TEXTS,
    decode_in_slices,
    decode_whole,
    expect_same_chunks,
    make_batch,
    random_stream,
    tolerant_events,
    write_event,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import DONE, delta, event, raw, text

from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder, batches
from gradient_async.types import ChatCompletionChunk, TextBatch

FORM = FORMS[0]


def pulls(*pieces: bytes, **options: Any) -> list[list[str] | None]:
    """Pull each piece, the first twice in one block, from which the decoder learns.

    Return the texts of those that are batches, None for those that are not.
    """
    decoder = ChunkDecoder(**options)
    reported: list[list[str] | None] = []
    for piece in (pieces[0] * 2, *pieces[1:]):
        decoder.push(piece)
        batch = decoder.decode_slice()
        reported.append(batch.texts if isinstance(batch, TextBatch) else None)
    return reported


class TestSameAsEachByItself:
    """Whole, byte by byte, cut anywhere, pulled in slices: chunks, error and counts are those of single events."""

    def test_in_streams_of_a_fixed_seed(self) -> None:
        dice = random.Random(8)
        count = sum(
            expect_same_chunks(wire, cuts, **options)
            for wire, cuts, options in (random_stream(dice) for _ in range(1800))
        )
        assert count > 200, "a test of batches has batches"

    @settings(max_examples=100, deadline=None)
    @given(st.randoms(use_true_random=False))
    def test_in_any_stream(self, dice: random.Random) -> None:
        wire, cuts, options = random_stream(dice)
        expect_same_chunks(wire, cuts, **options)

    @pytest.mark.parametrize("form", FORMS, ids=lambda form: b"_".join(form).decode())
    def test_for_every_text_in_every_form(self, form: tuple[bytes, bytes]) -> None:
        """Each text follows one that the form was learned from: alone, and among usual ones."""
        first = write_event(form, b"a") * 2
        for content in TEXTS:
            wire = write_event(form, content)
            for pieces in (
                [first, wire],
                [first, first + wire + first],
                [first, wire + DONE],
                [first, wire, first],
            ):
                expected = decode_whole(tolerant_events(b"".join(pieces)))
                assert expected == decode_whole(pieces)
                assert expected == decode_in_slices(pieces)[0]


class TestLearn:
    """What is learned from an event is where its text stands, or nothing."""

    @pytest.mark.parametrize(
        ("name", "more"),
        [
            ("content", {}),
            ("content", {"role": "assistant"}),
            ("content", {"reasoning_content": ""}),
            ("content", {"reasoning_content": None, "tool_calls": [], "refusal": None}),
            ("reasoning_content", {}),
            ("reasoning_content", {"content": ""}),
            ("reasoning", {}),
        ],
    )
    @pytest.mark.parametrize("index", [0, 3])
    def test_events_of_text_become_batches(self, name: str, more: dict[str, Any], index: int) -> None:
        batch = make_batch("b", "", "é\u2028😀", name=name, index=index, **more)
        field = "content" if name == "content" else "reasoning_content"
        assert (index, field, 3) == (batch.choice, batch.field, len(batch))
        rest = {key: value for key, value in more.items() if value not in (None, [])}
        assert [{"index": index, "delta": {field: content} | rest} for content in batch.texts] == [
            chunk.to_dict()["choices"][0] for chunk in batch
        ]

    @pytest.mark.parametrize(
        "first",
        [
            text("a", usage={"total_tokens": 1}),
            text("a", retrieval={}),
            text(""),
            event(delta(role="assistant")),
            event(delta(content="a", reasoning_content="b")),
            event(delta(content="a", refusal="b")),
            event(delta(content="a", tool_calls=[{"index": 0}])),
            event(delta(content="a", audio={})),
            event(delta(content="a") | {"finish_reason": "stop"}),
            event(delta(content="a") | {"logprobs": {}}),
            event(delta(content="a"), delta(1, content="b")),
            event(delta(content="a"), x="a"),
            event(delta(content="content")),
        ],
    )
    def test_of_others_each_is_decoded(self, first: bytes) -> None:
        assert [None, None] == pulls(first, first * 3)

    @pytest.mark.parametrize(
        ("content", "around"),
        [
            ("\\u0061", '{"x":"a","choices":[{"delta":{"content":%s}}]}'),
            ("\\u0061", '{"choices":[{"delta":{"content":%s}}],"id":"a"}'),
            ("\\u0061", '{"choices":[{"delta":{"content":%s}}],"x":{"a":1}}'),
            ("\\u0061", '{"choices":[{"delta":{"content":"a","content":%s}}]}'),
            ("\\u0061", '{"choices":[{"delta":{"content":%s}}],"x":"\\"a"}'),
            ("\\ufdd0", '{"choices":[{"delta":{"content":%s}}],"x":"\ufdd0"}'),
            ("\\ufdd0text", '{"choices":[{"delta":{"content":%s}}],"x":"\ufdd0text"}'),
            ("\\u002c", '{"choices":[{"delta":{"content":%s}}],"x":["b","c"]}'),
            ("\\u003a", '{"choices":[{"delta":{"content": %s}}],"x":{"b":"c"}}'),
        ],
    )
    def test_only_the_text_itself_is_taken_for_it(self, content: str, around: str) -> None:
        """The text is written in another way, and as it is stands what is not the text."""
        payload = around % f'"{content}"'
        meant = json.loads(f'"{content}"')
        assert 1 == payload.count(f'"{meant}"')
        changed = payload.replace(f'"{meant}"', f'"{meant}"' if meant in ",:" else '"zz"')
        assert [None, None, None] == pulls(raw(payload), raw(payload) * 2, raw(changed) * 2)
        assert [meant] * 5 == [
            chunk.choices[0].delta.content
            for chunk in decode_in_slices([raw(payload), raw(payload) * 2, raw(changed) * 2])[0][0]
        ]

    @pytest.mark.parametrize("elsewhere", ['"text":"b"', '"message":{"content":"b"}'])
    def test_text_in_another_place_adds_nothing_to_that_of_the_deltas(self, elsewhere: str) -> None:
        """Nor is it the text of an event whose delta is empty."""
        first, empty = (
            raw(f'{{"choices":[{{"delta":{{"content":"{text}"}},{elsewhere}}}]}}') for text in ("a", "")
        )
        pieces = [first * 2, empty * 2 + first]
        expected = decode_whole(tolerant_events(b"".join(pieces)))
        assert expected == decode_whole(pieces)
        assert ["a", "a", "", "", "a"] == [chunk.choices[0].delta.content for chunk in expected[0]]

    def test_an_event_alone_is_not_learned_from(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where events arrive one by one, no block has several, and a template would be of no use."""
        monkeypatch.delattr(batches, "learn_template")
        decoder = ChunkDecoder()
        for content in "abc":
            decoder.push(text(content))
            assert not isinstance(decoder.decode_slice(), TextBatch)

    def test_a_long_event_is_not_learned_from(self) -> None:
        """It is decoded where it lies: nothing of it is copied."""
        assert [None, None, None] == pulls(text("x" * 9000), text("y"), text("z" * 9000))

    def test_where_no_event_is_like_the_one_before_few_are_learned_from(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After each lesson in vain the next waits for twice as many blocks, 63 at most; a batch ends the wait."""
        decoder = ChunkDecoder()
        lessons: list[int] = []
        at = 0
        learn = batches.learn_template

        def counted(payload: bytes, decoded: list[ChatCompletionChunk]) -> Any:
            lessons.append(at)
            return learn(payload, decoded)

        monkeypatch.setattr(batches, "learn_template", counted)
        for at in range(300):
            decoder.push(text("a", id="x") + text("a", id=str(at)))
            assert not isinstance(decoder.decode_slice(), TextBatch)
        assert [0, 2, 6, 14, 30, 62, 126, 190, 254] == lessons
        decoder.push(text("b", id="254"))
        assert isinstance(decoder.decode_slice(), TextBatch)
        for at in range(300, 303):
            decoder.push(text("a", id="x") + text("a", id=str(at)))
            decoder.decode_slice()
        assert [300, 302] == lessons[9:]


class TestBatch:
    """A block is a batch if it is nothing but events of the same form."""

    @pytest.mark.parametrize(
        "texts", [["b"], ["b", "c"], ["", "", ""], ["data: ", "}", "é", "\x7f", "\ufdd0"]]
    )
    def test_of_the_same_form_all_texts_are_taken(self, texts: list[str]) -> None:
        block = b"".join(map(text, texts))
        assert [None, texts, texts] == pulls(text("a"), block, block + DONE)

    @pytest.mark.parametrize(
        "content",
        [
            b"\\",
            b"\\x",
            b'\\u0061" "b',
            b'"\n"',
            b"\\ud83d",
            b"\x00",
            b"\x09",
            b"\x0b",
            b"\x1f",
            b"\r",
            b"\n",
            b"\xff",
            b"\xc3",
            b'"',
            b"\n\ndata: ",
        ],
    )
    def test_of_what_no_string_holds_nothing_is(self, content: bytes) -> None:
        first, odd = write_event(FORM, b"a"), write_event(FORM, content)
        assert [None] * 4 == pulls(first, odd, first + odd, odd + first, on_bad_event="skip")

    @pytest.mark.parametrize("content", ["\n", '"', "\\", "\b", "/", 'a"\n"b', "\\u0061", "é😀"])
    @pytest.mark.parametrize("ascii_only", [False, True])
    def test_what_is_written_with_escapes_is_a_text_as_well(self, content: str, ascii_only: bool) -> None:
        odd = write_event(FORM, json.dumps(content, ensure_ascii=ascii_only)[1:-1].encode())
        first = write_event(FORM, b"a")
        assert [None, [content], ["a", content], [content, content, "a"]] == pulls(
            first, odd, first + odd, odd + odd + first
        )

    def test_one_text_too_many_is_not_made_up_for_by_one_that_is_missing(self) -> None:
        """Two strings in one event, and none in another, or one for two, are as many as events."""
        first = write_event(FORM, b"a") * 2
        pieces = [b"b", b'b" "c', b'b""c', b" ", b"", b"b\\", b'","b', b'"', b'" "']
        for one, two, three in itertools.product(pieces, repeat=3):
            wire = b"".join(write_event(FORM, piece) for piece in (one, two, three))
            expected = decode_whole(tolerant_events(first + wire), on_bad_event="skip")
            assert expected == decode_whole([first, wire], on_bad_event="skip")

    @pytest.mark.parametrize(
        "other", [text("b", id="x"), text("b", created=8), b": c\n\n", b"data: {}\n\n", b"\n", DONE]
    )
    def test_one_other_event_is_enough_to_have_all_decoded(self, other: bytes) -> None:
        for block in (other + text("b"), text("b") + other + text("b"), text("b") + other):
            if block.endswith(DONE):
                continue
            assert [None, None] == pulls(text("a"), block)

    def test_bytes_on_both_sides_may_not_overlap(self) -> None:
        """What begins and ends as the events do, but with one quotation mark for both, has no text."""
        first, torn = write_event(FORM, b"a"), write_event((FORM[0][:-1], FORM[1]), b"")
        for block in (torn, first + torn, torn + first, torn * 2):
            assert [None, None] == pulls(first, block, on_bad_event="skip")
            assert decode_whole(tolerant_events(first * 2 + block)) == decode_whole([first * 2, block])

    def test_half_a_character_is_none_though_the_next_event_has_the_other(self) -> None:
        first, half, rest = (write_event(FORM, content) for content in (b"a", b"\xc3", b"\xa9"))
        assert [None, None] == pulls(first, half + rest)
        assert ["a", "a", "\ufffd", "\ufffd"] == [
            chunk.choices[0].delta.content for chunk in decode_whole([first * 2, half + rest])[0]
        ]

    def test_what_is_over_a_limit_is_refused_as_ever(self) -> None:
        limits = Limits(event_bytes=len(text("a")) - 8)
        assert [None, ["b"]] == pulls(text("a"), text("b"), limits=Limits(event_bytes=2 * len(text("a"))))
        expect_same_chunks(text("a") * 2 + text("bb") + text("c"), limits=limits)

    def test_it_makes_its_chunks_when_they_are_asked_for(self) -> None:
        """Each is a new object, which may be changed."""
        batch = make_batch("b", "c", "d")
        expected = [chunk for content in "bcd" for chunk in ChunkDecoder().feed(text(content))]
        assert expected == list(batch)
        assert (expected[0], expected[-1], 3) == (batch[0], batch[-1], len(batch))
        assert expected[1:] == list(batch[1:])
        assert isinstance(batch[1:], TextBatch)
        batch[0].choices[0].delta.content = "x"
        next(iter(batch)).choices.clear()
        assert expected == list(batch)
        with pytest.raises(IndexError):
            batch[3]

    def test_a_chunk_that_was_changed_is_no_template(self) -> None:
        decoder = ChunkDecoder()
        chunk = decoder.feed(text("a") * 2)[1]
        chunk.id = "other"
        chunk.choices[0].index = 7
        chunk.choices[0].delta.role = "other"
        assert decode_whole([text("b")])[0] == decoder.feed(text("b") + text("c"))[:1]


def test_what_is_over_a_limit_behind_done_is_ignored_too() -> None:
    expect_same_chunks(
        text("a") + DONE + b"x" * 600 + b"\n\n", limits=Limits(event_bytes=500, line_bytes=500)
    )
    assert (
        "" == decode_whole([text("a") + DONE + b"x" * 600], limits=Limits(event_bytes=500, line_bytes=500))[1]
    )


def test_a_slice_begins_with_what_was_held_of_its_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that the network cut takes the fast path as well, once all of it has come."""
    decoder = ChunkDecoder()
    wire = text("a") * 400
    cut = len(text("a")) + 50
    monkeypatch.delattr(ChunkDecoder, "_decode_events")
    decoder.push(wire[:cut])
    sizes = [len(decoder.decode_slice())]
    decoder.push(wire[cut:])
    while decoder.pending:
        sizes.append(len(decoder.decode_slice()))
    assert (400, 5) == (sum(sizes), len(sizes))
    assert decoder.idle
