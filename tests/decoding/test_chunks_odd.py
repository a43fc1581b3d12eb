"""`ChunkDecoder` understands what only some servers send."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import DONE, contents, decoded, delta, event, raw, refused, run, text

from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder, decode_completion, normalize
from gradient_async.errors import StreamProtocolError, StreamServerError

CHOICES: list[tuple[str, list[Any]]] = [
    ('{"choices":null}', []),
    ('{"object":"chat.completion.chunk"}', []),
    ('{"choices":[{"delta":null}]}', [{"index": 0, "delta": {}}]),
    ('{"choices":[{}]}', [{"index": 0, "delta": {}}]),
    (
        '{"choices":[{"index":null,"delta":{"content":"a"}}]}',
        [{"index": 0, "delta": {"content": "a"}}],
    ),
    ('{"choices":[{"delta":{"content":"a"}}]}', [{"index": 0, "delta": {"content": "a"}}]),
    (
        '{"choices":[{"index":"2","delta":{"content":"a"}}]}',
        [{"index": 2, "delta": {"content": "a"}}],
    ),
    (
        '{"choices":[{"delta":{"content":null,"reasoning":"r"}}]}',
        [{"index": 0, "delta": {"reasoning_content": "r"}}],
    ),
    (
        '{"choices":[{"delta":{"reasoning":"r","reasoning_content":"c"}}]}',
        [{"index": 0, "delta": {"reasoning_content": "c"}}],
    ),
    (
        '{"choices":[{"delta":{"reasoning":"r"},"index":"0"}]}',
        [{"index": 0, "delta": {"reasoning_content": "r"}}],
    ),
    (
        '{"choices":[{"delta":{"reasoning":"r","reasoning_content":"c"},"index":"0"}]}',
        [{"index": 0, "delta": {"reasoning_content": "c"}}],
    ),
    (
        '{"choices":[{"delta":{"reasoning":{"x":1},"content":"a"}}]}',
        [{"index": 0, "delta": {"content": "a"}}],
    ),
    ('{"choices":[{"delta":{"role":null,"tool_calls":[]}}]}', [{"index": 0, "delta": {}}]),
    ('{"choices":[{"delta":{},"finish_reason":""}]}', [{"index": 0, "delta": {}}]),
    ('{"choices":[{"delta":{},"index":"0","finish_reason":""}]}', [{"index": 0, "delta": {}}]),
    (
        '{"choices":[{"delta":{},"finish_reason":7}]}',
        [{"index": 0, "delta": {}, "finish_reason": "7"}],
    ),
    ('{"choices":[{"delta":{},"finish_reason":{"a":1}}]}', [{"index": 0, "delta": {}}]),
    *(
        (f'{{"choices":[{{"delta":{{}},"finish_reason":{none}}}]}}', [{"index": 0, "delta": {}}])
        for none in ('"null"', '"None"', '"none"', "false", "0", "0.0", "null", "[]")
    ),
    (
        '{"choices":[{"delta":{},"finish_reason":"nonesuch"}]}',
        [{"index": 0, "delta": {}, "finish_reason": "nonesuch"}],
    ),
    (
        '{"choices":[{"delta":{"tool_calls":{"index":1,"id":"a"}}}]}',
        [{"index": 0, "delta": {"tool_calls": [{"index": 1, "id": "a", "function": {}}]}}],
    ),
    ('{"choices":[{"delta":{"tool_calls":{}}}]}', [{"index": 0, "delta": {}}]),
    ('{"choices":[{"delta":{"images":{"a":1}}}]}', [{"index": 0, "delta": {"images": [{"a": 1}]}}]),
    ('{"choices":[{"delta":{"images":"x","content":"a"}}]}', [{"index": 0, "delta": {"content": "a"}}]),
    (
        '{"choices":[{"delta":{"reasoning_details":{"a":1}}}]}',
        [{"index": 0, "delta": {"reasoning_details": [{"a": 1}]}}],
    ),
    (
        '{"choices":[{"delta":{"annotations":{},"content":"a"}}]}',
        [{"index": 0, "delta": {"content": "a"}}],
    ),
    (
        '{"choices":[{"delta":{"content":"a"},"logprobs":{"tokens":["a"]}}]}',
        [{"index": 0, "delta": {"content": "a"}, "logprobs": {}}],
    ),
    (
        '{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[5,{}]}}]}',
        [{"index": 0, "delta": {"content": "a"}}],
    ),
    (
        '{"choices":[{"delta":{"content":"a"},"logprobs":{"content":"x"}}]}',
        [{"index": 0, "delta": {"content": "a"}}],
    ),
    (
        '{"choices":[{"delta":{"content":"a"},"logprobs":[1]}]}',
        [{"index": 0, "delta": {"content": "a"}}],
    ),
]


class TestOddities:
    """What wire.md's list of quirks names, on the tolerant path where the typed decoder refuses it."""

    @pytest.mark.parametrize(
        ("payload", "choices"),
        CHOICES,
    )
    def test_choices(self, payload: str, choices: list[Any]) -> None:
        """Alone, among usual events, and in a frame that takes the tolerant decoder."""
        for wire in (raw(payload), b": tolerant\n" + raw(payload)):
            assert [choices] == [chunk["choices"] for chunk in decoded(wire)[0]]
        chunks, _ = decoded(text("x") + raw(payload) + text("y") + DONE)
        assert (3, choices) == (len(chunks), chunks[1]["choices"])

    @pytest.mark.parametrize(
        ("chunk", "choice", "groq", "expected"),
        [
            (None, None, 3, 3),
            (None, 2, 3, 2),
            (1, 2, 3, 1),
            (None, 2, None, 2),
            (None, None, None, None),
        ],
    )
    @pytest.mark.parametrize("null", ["null", "[]"])
    def test_where_usage_is(
        self, chunk: int | None, choice: int | None, groq: int | None, expected: int | None, null: str
    ) -> None:
        """In the chunk, else in its first choice, else in `x_groq`."""

        def usage(total: int | None) -> str:
            return null if total is None else f'{{"total_tokens":{total}}}'

        first = f'{{"index":0,"delta":{{"content":"a"}},"usage":{usage(choice)}}}'
        other = '{"index":1,"delta":{"content":"b"},"usage":{"total_tokens":9}}'
        wire = raw(
            f'{{"choices":[{first},{other}],"usage":{usage(chunk)},"x_groq":{{"id":"r","usage":{usage(groq)}}}}}'
        )
        chunks, _ = decoded(wire)
        assert ["a", "b"] == [found["delta"]["content"] for found in chunks[0]["choices"]]
        found = chunks[0].get("usage")
        assert expected == (None if found is None else found["total_tokens"])

    def test_usage_in_x_groq_needs_no_choice(self) -> None:
        chunks, _ = decoded(raw('{"choices":[],"x_groq":{"usage":{"total_tokens":3}}}'))
        assert {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 3} == chunks[0]["usage"]

    @pytest.mark.parametrize(
        ("field", "name", "value"),
        [
            ('"id":5', "id", "5"),
            ('"id":null', "id", ""),
            ('"id":["x"]', "id", ""),
            ('"model":null', "model", ""),
            ('"created":1700000000.9', "created", 1700000000),
            ('"created":"1700000000"', "created", 1700000000),
            ('"created":"2024-01-01"', "created", 0),
            ('"created":null', "created", 0),
            ('"created":true', "created", 0),
            ('"created":1e999', "created", 0),
            ('"created":NaN', "created", 0),
            ('"created":' + "9" * 10_000, "created", 0),
            ('"created":' + "9" * 18, "created", 10**18 - 1),
            ('"system_fingerprint":{}', "system_fingerprint", None),
            ('"service_tier":3', "service_tier", "3"),
            ('"x":NaN', "model", ""),
            ('"x":[Infinity,-Infinity]', "model", ""),
        ],
    )
    def test_head(self, field: str, name: str, value: Any) -> None:
        """A field that nothing depends on never fails a chunk."""
        wire = raw(f'{{{field},"choices":[{{"delta":{{"content":"a"}}}}]}}')
        chunks, error = run(ChunkDecoder(), [text("x") + wire + text("y")])
        assert (["x", "a", "y"], None) == (contents(chunks), error)
        assert value == chunks[1].get(name)

    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            ('{"prompt_tokens":1,"completion_tokens":2.0,"total_tokens":3}', (1, 2, 3)),
            ('{"prompt_tokens":null,"completion_tokens":2,"total_tokens":null}', (0, 2, 2)),
            ('{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":null}}', (1, 0, 1)),
            (
                '{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":[]}',
                (1, 2, 3),
            ),
            ('{"prompt_tokens":1,"completion_tokens":"many"}', (1, 0, 1)),
            ('{"prompt_tokens":"few"}', None),
            ('{"prompt_tokens":1,"completion_tokens":1e999}', None),
            ('{"prompt_tokens":1,"completion_tokens":NaN}', None),
            ('{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":Infinity}}', None),
            ('{"prompt_tokens":' + "9" * 30 + "}", (10**30 - 1, 0, 10**30 - 1)),
            ('{"prompt_tokens":' + "9" * 5000 + "}", None),
            ("[]", None),
            ('"none"', None),
            ("null", None),
        ],
    )
    def test_usage(self, usage: str, expected: tuple[int, int, int] | None) -> None:
        """Counts that are missing are 0; a count that is no number makes the usage doubtful, and it is dropped."""
        wire = raw(f'{{"choices":[{{"delta":{{"content":"a"}}}}],"usage":{usage}}}')
        chunks, error = run(ChunkDecoder(), [wire])
        assert (["a"], None) == (contents(chunks), error)
        found = chunks[0].get("usage")
        assert expected == (
            found and (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"])
        )

    def test_usage_of_every_server_is_kept(self) -> None:
        """Gradient's cache fields and other servers' details."""
        usage = {
            "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cache_created_input_tokens": 4,
            "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 6},
            "cache_read_input_tokens": 7, "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 9},
        }  # fmt: skip
        assert usage == decoded(event(usage=usage))[0][0]["usage"]

    def test_logprobs(self) -> None:
        """Entries come whole; a log probability of minus infinity or null is "very unlikely"."""
        entry = {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [{"token": "b", "logprob": -1.5, "bytes": None}],
        }
        wire = event(
            {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [entry], "refusal": None}}
        )
        plain = {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [{"token": "b", "logprob": -1.5}],
        }
        assert {"content": [plain]} == decoded(wire)[0][0]["choices"][0]["logprobs"]
        odd = wire.replace(b"-1.5", b"-Infinity").replace(b"-0.5", b"null")
        chunks, decoder = decoded(odd)
        unlikely = {
            "token": "a",
            "logprob": -9999.0,
            "bytes": [97],
            "top_logprobs": [{"token": "b", "logprob": -9999.0}],
        }
        assert {"content": [unlikely]} == chunks[0]["choices"][0]["logprobs"]
        assert 1 == decoder.anomalies
        none = wire.replace(b'[{"token": "b", "logprob": -1.5, "bytes": null}]', b"null")
        assert [] == decoded(none)[0][0]["choices"][0]["logprobs"]["content"][0]["top_logprobs"]

    @pytest.mark.parametrize(
        ("call", "expected"),
        [
            (
                '{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}',
                (0, "c", "function", "f", "{}"),
            ),
            ('{"index":0,"function":{"arguments":"x"}}', (0, None, None, None, "x")),
            ('{"index":0}', (0, None, None, None, None)),
            ('{"index":0,"function":null}', (0, None, None, None, None)),
            ('{"function":{"name":"f"}}', (None, None, None, "f", None)),
            (
                '{"index":null,"id":null,"type":null,"function":{"name":null,"arguments":null}}',
                (None, None, None, None, None),
            ),
            ('{"index":"1","id":7,"function":{"name":"f"}}', (1, "7", None, "f", None)),
            ('{"index":0,"function":{"arguments":{"a":[1,NaN]}}}', (0, None, None, None, '{"a":[1,null]}')),
            ('{"index":0,"function":{"arguments":[]}}', (0, None, None, None, "[]")),
            ('{"index":0,"function":{"arguments":5}}', (0, None, None, None, "5")),
            ('{"index":0,"function":{"name":{"x":1},"arguments":""}}', (0, None, None, None, "")),
        ],
    )
    def test_tool_calls(self, call: str, expected: tuple[Any, ...]) -> None:
        chunks = ChunkDecoder().feed(raw(f'{{"choices":[{{"delta":{{"tool_calls":[{call}]}}}}]}}'))
        calls = chunks[0].choices[0].delta.tool_calls
        assert calls is not None
        found = calls[0]
        assert expected == (found.index, found.id, found.type, found.function.name, found.function.arguments)

    def test_function_call_of_the_older_form(self) -> None:
        chunks, _ = decoded(raw('{"choices":[{"delta":{"function_call":{"name":"f","arguments":{"a":1}}}}]}'))
        assert [{"name": "f", "arguments": '{"a":1}'}] == contents(chunks, "function_call")

    @pytest.mark.parametrize(
        ("content", "joined", "thought"),
        [
            ('[{"type":"text","text":"a"},{"type":"text","text":"b"}]', "ab", None),
            ('["a",{"type":"text","text":"b"}]', "ab", None),
            (
                '[{"type":"thinking","thinking":[{"type":"text","text":"t"},{"type":"x"}]},{"type":"text","text":"b"}]',
                "b",
                "t",
            ),
            ('[{"type":"thinking","thinking":"t"}]', None, "t"),
            ('[{"type":"image","url":"u"},5]', None, None),
            ("[]", None, None),
        ],
    )
    def test_content_as_a_list(self, content: str, joined: str | None, thought: str | None) -> None:
        """Text parts are content, thinking parts reasoning, and the parts themselves stay."""
        chunks, decoder = decoded(raw(f'{{"choices":[{{"delta":{{"content":{content}}}}}]}}'))
        assert [json.loads(content)] == contents(chunks, "content_parts")
        assert ([joined], [thought]) == (contents(chunks), contents(chunks, "reasoning_content"))
        assert 1 == decoder.anomalies

    def test_content_as_one_part(self) -> None:
        chunks, _ = decoded(raw('{"choices":[{"delta":{"content":{"type":"text","text":"a"}}}]}'))
        assert (["a"], [[{"type": "text", "text": "a"}]]) == (
            contents(chunks),
            contents(chunks, "content_parts"),
        )

    def test_reasoning_beside_thinking_parts_wins(self) -> None:
        part = '[{"type":"thinking","thinking":"t"}]'
        chunks, _ = decoded(raw(f'{{"choices":[{{"delta":{{"reasoning_content":"r","content":{part}}}}}]}}'))
        assert ["r"] == contents(chunks, "reasoning_content")


class TestText:
    def test_bad_utf8_is_replaced_and_counted(self) -> None:
        chunks, decoder = decoded(text("a") + text("b").replace(b"b", b"\xffb\xc3") + text("c"))
        assert (["a", "\ufffdb\ufffd", "c"], 1) == (contents(chunks), decoder.anomalies)

    def test_strict_refuses_it(self) -> None:
        chunks, error = refused(text("a") + text("b").replace(b'"b"', b'"\xff"') + text("c"), strict=True)
        assert (["a"], True) == (contents(chunks), isinstance(error, StreamProtocolError))

    def test_strict_takes_other_oddities(self) -> None:
        chunks, decoder = decoded(raw('{"x":NaN,"choices":[{"delta":{"content":"é"}}]}'), strict=True)
        assert (["é"], 1) == (contents(chunks), decoder.anomalies)

    @pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning", "refusal"])
    def test_a_surrogate_pair_of_two_deltas_is_joined(self, name: str) -> None:
        """Also with other choices, fields and empty deltas in between."""

        def piece(text: str, index: int = 0) -> bytes:
            return raw(f'{{"choices":[{{"index":{index},"delta":{{"{name}":"{text}"}}}}]}}')

        wire = (
            piece("a\\ud83d") + piece("x", 1) + piece("") + event(delta(role="assistant")) + piece("\\ude00b")
        )
        chunks, decoder = decoded(wire + DONE)
        reported = "reasoning_content" if name == "reasoning" else name
        assert ["a", "x", "", None, "😀b"] == contents(chunks, reported)
        assert decoder.anomalies >= 2

    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            (["\\ud83d", "b"], "\ufffdb"),
            (["\\ude00", "b"], "\ufffdb"),
            (["\\ud83d\\ud83d", "\\ude00"], "\ufffd😀"),
            (["\\ud83d", "\\ud83d\\ude00"], "\ufffd😀"),
            (["a\\ud83d"], "a\ufffd"),
            (["\\ud83d\\ude00"], "😀"),
            (["\\ude00\\ud83d"], "\ufffd\ufffd"),
            (["\\ud83d", "\\ude00\\ud83d", "\\ude00"], "😀😀"),
        ],
    )
    @pytest.mark.parametrize(
        "end", [b"", DONE, raw('{"choices":[{"delta":{},"finish_reason":"stop"}]}') + DONE]
    )
    def test_lone_surrogates_are_replaced(self, texts: list[str], expected: str, end: bytes) -> None:
        """Text always encodes to UTF-8, and no half is lost, whatever ends the stream."""
        wire = b"".join(raw(f'{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}') for text in texts) + end
        chunks, _ = decoded(wire)
        assert expected == "".join(text or "" for text in contents(chunks))

    def test_a_half_is_not_kept_beyond_the_finish(self) -> None:
        wire = raw('{"choices":[{"delta":{"content":"a\\ud83d"},"finish_reason":"stop"}]}') + text("b") + DONE
        assert ["a\ufffd", "b"] == contents(decoded(wire)[0])

    def test_halves_of_choices_do_not_mix(self) -> None:
        wire = (
            raw('{"choices":[{"delta":{"content":"\\ud83d"}},{"index":1,"delta":{"content":"\\ude00"}}]}')
            + DONE
        )
        chunks, _ = decoded(wire)
        assert ["", "\ufffd", "\ufffd"] == contents(chunks)

    def test_surrogates_elsewhere_are_replaced(self) -> None:
        """Arguments, names, tokens, parts, annotations: all of it can be written as JSON again."""
        lone = "\\ud83d"
        choice = (
            f'{{"delta":{{"content":[{{"type":"text","text":"{lone}","content":"{lone}"}}],"annotations":[{{"content":"{lone}"}}],'
            f'"tool_calls":[{{"id":"{lone}","function":{{"name":"{lone}","arguments":"{lone}"}}}}]}},'
            f'"logprobs":{{"content":[{{"token":"{lone}","logprob":-1}}]}}}}'
        )
        chunks = ChunkDecoder().feed(raw(f'{{"id":"{lone}","{lone}":1,"choices":[{choice}]}}') + raw("{}"))
        for chunk in chunks:
            assert "\ufffd" not in chunk.to_json().encode("utf-8").decode("ascii", "ignore")
        assert 8 == chunks[0].to_json(indent=None).count("\ufffd")

    @pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00"])
    def test_too_many_are_refused_in_a_long_event(self, half: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(normalize, "_MAX_REPLACED", 1000)
        monkeypatch.setattr(normalize, "_MAX_SURROGATES", 20)
        for escapes, accepted in (
            (half * 19 + "\\n", True),
            ("\\n" * 30, True),
            (half * 20 + "\\n", False),
        ):
            data = raw(f'{{"id":5,"choices":[{{"delta":{{"content":"{escapes}{"a" * 1000}"}}}}]}}')
            if accepted:
                (chunk,) = ChunkDecoder().feed(data)
                assert (chunk.choices[0].delta.content or "").endswith("\n" + "a" * 1000)
            else:
                with pytest.raises(StreamProtocolError, match="too many halves of surrogate pairs"):
                    ChunkDecoder().feed(data)

    def test_all_are_replaced_in_a_short_event(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also invalid UTF-8, which is refused in a longer event."""
        monkeypatch.setattr(normalize, "_MAX_SURROGATES", 20)
        data = raw('{"choices":[{"delta":{"content":"' + "\\ud83d" * 40 + 'z"}}]}').replace(b"z", b"\xff")
        (chunk,) = ChunkDecoder().feed(data)
        assert "\ufffd" * 41 == chunk.choices[0].delta.content
        monkeypatch.setattr(normalize, "_MAX_REPLACED", 200)
        with pytest.raises(StreamProtocolError, match="utf-8"):
            ChunkDecoder().feed(text("a" * 200).replace(b"aa", b"a\xff"))

    @settings(max_examples=150, deadline=None)
    @given(
        st.text(st.characters(codec="utf-8") | st.sampled_from("😀💡é\ufffd"), max_size=20),
        st.lists(st.integers(1, 38)),
    )
    def test_utf16_pieces_join_to_the_text(self, whole: str, cuts: list[int]) -> None:
        """Text that a server cut between UTF-16 units comes out whole."""
        units = whole.encode("utf-16-le")
        at = sorted({0, *(2 * cut for cut in cuts if 2 * cut < len(units)), len(units)})
        pieces = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in pairwise(at)]
        wire = b"".join(raw(json.dumps({"choices": [{"delta": {"content": piece}}]})) for piece in pieces)
        assert whole == "".join(text or "" for text in contents(run(ChunkDecoder(), [wire])[0]))


def test_a_long_number_is_decoded_by_the_tolerant_path() -> None:
    """Python's integers take a time that grows with the square of the digits."""
    data = f'{{"created":{"1" * 100},"choices":[{{"delta":{{"content":"a"}}}}]}}'
    decoder = ChunkDecoder(limits=Limits(values=100))
    (chunk,) = decoder.feed(raw(data))
    assert chunk.created == 0
    reply = decode_completion(data.replace("delta", "message").encode(), max_values=100)
    assert reply.created == 0


@pytest.mark.parametrize("on_bad_event", ["raise", "skip"])
def test_what_comes_after_a_deep_field_is_not_decoded(on_bad_event: Literal["raise", "skip"]) -> None:
    """Neither depth nor values are known there: 15 MiB of choices would take seconds."""
    data = f'{{"x":{"[" * 70}{"]" * 70},"choices":[{"{}," * 100}{{}}]}}'
    decoder = ChunkDecoder(limits=Limits(values=100), on_bad_event=on_bad_event)
    if on_bad_event == "skip":
        assert decoder.feed(raw(data)) == []
        assert decoder.anomalies == 1
    else:
        with pytest.raises(StreamProtocolError, match="nested too deep"):
            decoder.feed(raw(data))
        with pytest.raises(StreamServerError, match="overloaded"):
            ChunkDecoder(limits=Limits(values=100)).feed(raw(data + '{"error":{"message":"overloaded"}}'))
