"""What servers send beside the standard: words, forgotten blank lines, errors outside of events, events of other APIs."""

from __future__ import annotations

import json

import pytest
from wire import DONE, contents, decoded, delta, event, raw, refused, run, text

from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder, error_bodies, tolerant
from gradient_async.decoding.tolerant import is_torn, split_payloads
from gradient_async.errors import StreamLimitError, StreamProtocolError, StreamServerError

STOP = event({"index": 0, "delta": {}, "finish_reason": "stop"})


class TestWords:
    @pytest.mark.parametrize(
        "beat",
        [
            b"data: ping\n\n",
            b"data: PING\n\n",
            b'data: "ping"\n\n',
            b"data: keep-alive\n\n",
            b"data: heartbeat\n\n",
            b"data: : OPENROUTER PROCESSING\n\n",
            b'data: ""\n\n',
            b"data: null\n\n",
            b"event: ping\ndata: 2026-11-05T10:00:00Z\n\n",
            b"event: heartbeat\ndata: []\n\n",
            b"event: Keep-Alive\ndata: x\n\n",
        ],
    )
    def test_that_say_nothing(self, beat: bytes) -> None:
        """Neither chunks nor anomalies, anywhere in a stream."""
        chunks, decoder = decoded(beat + text("a") + beat + beat + text("b") + beat + DONE)
        assert (["a", "b"], 2) == (contents(chunks), len(chunks))
        assert (2, 0, True) == (decoder.events, decoder.anomalies, decoder.done)

    @pytest.mark.parametrize("name", [b"ping", b"heartbeat", b"keepalive", b"done"])
    @pytest.mark.parametrize("body", [b"{}", b'{"type":"ping","cost":"0"}', b'{"elapsed":3}'])
    def test_events_of_these_names_hold_no_chunks(self, name: bytes, body: bytes) -> None:
        chunks, decoder = decoded(text("a") + b"event: " + name + b"\ndata: " + body + b"\n\n" + text("b"))
        assert (["a", "b"], 2, 0, False) == (
            contents(chunks),
            len(chunks),
            decoder.anomalies,
            decoder.done,
        )

    def test_choices_count_in_an_event_of_any_name(self) -> None:
        chunks, _ = decoded(b"event: ping\n" + text("a") + b"event: done\n" + STOP)
        assert ["a", None] == contents(chunks)

    def test_an_error_counts_in_an_event_of_any_name(self) -> None:
        _, error = refused(text("a") + b"event: done\n" + raw('{"error":{"message":"spent","code":429}}'))
        assert (StreamServerError, "429") == (type(error), error.code)

    def test_progress_is_passed_over_and_counted(self) -> None:
        wire = raw('{"status":"queued","position":2}') + raw("{}") + text("a") + raw('{"message":"wait"}')
        chunks, decoder = decoded(wire + DONE)
        assert (["a"], 1, 3, 4) == (contents(chunks), len(chunks), decoder.anomalies, decoder.events)


class TestForgottenBlankLines:
    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_lines_of_one_value_each_are_events(self, end: bytes) -> None:
        lines = [b"data: " + line for line in (text("a") + text("b") + STOP).split(b"data: ") if line]
        wire = b"".join(line.strip() + end for line in lines)
        for last in (b"data: [DONE]" + end + end, b'data: "[DONE]"', b"data: ping" + end + b"data: [DONE]"):
            chunks, decoder = decoded(wire + last)
            assert (["a", "b", None], True, 3) == (contents(chunks), decoder.done, decoder.events)
            assert 0 == decoder.anomalies

    def test_also_where_only_some_are_forgotten(self) -> None:
        wire = text("a") + text("b")[:-1] + text("c") + text("d")[:-1] + b"data:\n" + text("e")
        assert ["a", "b", "c", "d", "e"] == contents(decoded(wire)[0])

    def test_words_among_them(self) -> None:
        wire = b"data: ping\n" + text("a")[:-1] + b"data: ping\n" + text("b")
        chunks, decoder = decoded(wire)
        assert (["a", "b"], 2, 0) == (contents(chunks), decoder.events, decoder.anomalies)

    def test_a_torn_last_line_costs_nothing_else(self) -> None:
        """The stream broke off inside an event; the lines before it are whole."""
        wire = text("a")[:-1] + text("b")[:-1] + text("c")[:40]
        assert ["a", "b"] == contents(decoded(wire)[0])

    def test_what_is_wrong_comes_behind_what_is_right(self) -> None:
        for bad in (b"data: nonsense\n\n", b'data: {"choices":5}\n\n'):
            chunks, error = refused(text("a")[:-1] + text("b")[:-1] + bad)
            assert (["a", "b"], 3) == (contents(chunks), error.events)
            assert isinstance(error, StreamProtocolError)

    def test_an_error_among_them(self) -> None:
        chunks, error = refused(text("a")[:-1] + raw('{"error":"it broke"}')[:-1] + text("b"))
        assert (["a"], True) == (contents(chunks), "it broke" in error.message)

    def test_one_value_on_many_lines_is_one_event(self) -> None:
        body = json.dumps(
            {"choices": [{"index": 0, "delta": {"content": "a"}, "x": [1, 2, {}], "y": {}}]}, indent=1
        )
        wire = b"".join(b"data:" + line.encode() + b"\n" for line in body.split("\n")) + b"\n"
        assert ["a", "b"] == contents(decoded(wire + text("b"))[0])

    def test_a_value_that_only_the_tolerant_decoder_takes_is_one(self) -> None:
        wire = b'data: {"x":NaN,\ndata: "choices":[{"delta":{"content":"a"}}]}\n\n'
        assert ["a"] == contents(decoded(wire)[0])

    def test_there_may_not_be_too_many(self) -> None:
        """So many lines in one event would keep the event loop waiting."""
        some, more = b"\n".join([b"{}"] * 10_000), b"\n".join([b"{}"] * 10_001)
        assert 10_000 == len(split_payloads(some))
        assert [more] == split_payloads(more)


class TestErrorsOutsideOfEvents:
    @pytest.mark.parametrize(
        ("lines", "words", "code"),
        [
            (b'error: {"message":"slot gone","code":501}\n', "slot gone", "501"),
            (b'error:{"error":{"message":"slot gone"}}\n', "slot gone", None),
            (b"Error: upstream hung up\n", "upstream hung up", None),
            (b'{"error":{"message":"worker died","code":"c1"}}\n', "worker died", "c1"),
            (b'{"detail":"worker died"}\n', "worker died", None),
            (b' {"error": "worker died"}\n', "worker died", None),
            (b'[{"error":{"message":"worker died","status":"UNAVAILABLE"}}]\n', "worker died", None),
            (b'{\n  "error": {\n    "message": "laid out",\n    "code": 7\n  }\n}\n', "laid out", "7"),
            (b'{"status":"busy"}\n{"error":"second"}\n', "second", None),
            (b'{"base_resp":{"status_code":1002,"status_msg":"slow down"}}\n', "slow down", "1002"),
        ],
    )
    @pytest.mark.parametrize("end", [b"", b"\n", b"\n" + text("c") + DONE])
    def test_are_errors(self, lines: bytes, words: str, code: str | None, end: bytes) -> None:
        """In a field of that name, or without any: behind the chunks before, wherever the network cuts."""
        chunks, error = refused(text("a") + text("b") + lines + end)
        assert ["a", "b"] == contents(chunks)
        assert isinstance(error, StreamServerError)
        assert words in error.message
        assert code == error.code

    def test_behind_the_event_of_the_same_lines(self) -> None:
        chunks, error = refused(text("a")[:-1] + b"error: broken\n\n" + text("b"))
        assert (["a"], True) == (contents(chunks), "broken" in error.message)

    def test_after_the_end_they_do_not_matter(self) -> None:
        assert ["a"] == contents(decoded(text("a") + DONE + b"error: broken\n\n")[0])

    @pytest.mark.parametrize(
        "lines",
        [
            b"error:\n",
            b"error: null\n",
            b"error: {}\n",
            b"foo: 1\n",
            b"foo: {\n",
            b'{"error": null}\n',
            b'{"error":{"message":"torn\n',
            b"{\n",
            b"[DONE]\n",
            b"words of a proxy\n",
            b"retry: soon\nid: a\0b\n",
            b"<html>{}</html>\n",
        ],
    )
    def test_everything_else_is_ignored(self, lines: bytes) -> None:
        chunks, decoder = decoded(
            text("a") + lines + b"\n" + text("b") + lines + text("c") + lines + b"\n" + DONE
        )
        assert (["a", "b", "c"], True) == (contents(chunks), decoder.done)

    def test_chunks_without_their_field_are_chunks(self) -> None:
        """A server that forgot ``data:``, once or always after its first event."""
        chunks, _ = decoded(text("a") + text("b")[6:] + text("c")[6:-1] + text("d")[6:] + DONE)
        assert ["a", "b", "c", "d"] == contents(chunks)

    @pytest.mark.parametrize(
        ("wire", "words"),
        [
            (b"<html><title>504</title><style>p {}</style>gone</html>", "504 gone"),
            (b"upstream connect error: reset\n\n", "upstream connect error: reset"),
            (b'{"error":{"message":"torn', '{"error":{"message":"torn'),
            (b"<p>\n\n<b>5&#50;4</b>\n", "524"),
            (b"<p>seen</p>\n\nfoo: 1\n\n", "seen"),
            (b"<p>\x1b[2J</p>\n", "\\x1b[2J"),
            (b"foo: 1\n\n", ""),
            (b'{"message":"loading"}\n\n', ""),
            (b"", ""),
        ],
    )
    def test_the_last_words_of_a_gateway_are_kept(self, wire: bytes, words: str) -> None:
        _, decoder = decoded(text("a") + wire)
        assert words == decoder.last_words

    def test_they_are_bounded(self) -> None:
        """Of lines without meaning 64 KiB are kept, up to a blank line."""
        decoder = ChunkDecoder()
        decoder.feed(b"x\n" * 1_000_000 + b"y" * 100_000 + b"\n\n" + text("a"))
        assert decoder.last_words.startswith("x x x")
        decoder.feed(b"z" * 100_000 + b"\n\n")
        assert "z" * 500 + "…" == decoder.last_words


class TestTornEvents:
    TORN = text("lost")[:90]

    @pytest.mark.parametrize(
        "behind",
        [
            b'{"error":{"message":"worker died"}}\n\n',
            b'data: {"error":{"message":"worker died"}}\n\n',
            b'\n{"error":{"message":"worker died"}}\n\n',
            b'\ndata: {"error":{"message":"worker died"}}\n\n',
            b'\n\ndata: {"error":{"message":"worker died"}}\n\n',
            b'\n\n{"error":{"message":"worker died"}}\n\n',
            b"\n\n: beat\n\ndata: ping\n\nevent: error\ndata: worker died\n\n",
            b"\n\nerror: worker died\n\n",
            b'{"error":{"message":"worker died"}}',
            b'\n\ndata: {"error":{"message":"worker died"}}',
        ],
    )
    def test_the_error_behind_one_is_the_reason(self, behind: bytes) -> None:
        chunks, error = refused(text("a") + self.TORN + behind)
        assert ["a"] == contents(chunks)
        assert isinstance(error, StreamServerError)
        assert "worker died" in error.message

    @pytest.mark.parametrize(
        "behind",
        [text("b"), DONE, b"", b": beat\n\n", raw('{"status":"busy"}'), raw("nonsense"), raw("{torn")],
    )
    def test_nothing_behind_one_excuses_it(self, behind: bytes) -> None:
        chunks, error = refused(text("a") + self.TORN + b"\n\n" + behind)
        assert (["a"], 2) == (contents(chunks), error.events)
        assert isinstance(error, StreamProtocolError)
        assert "event 2 of the stream is not a chat completion chunk" in error.message

    def test_at_the_end_one_is_dropped(self) -> None:
        assert ["a"] == contents(decoded(text("a") + self.TORN)[0])

    def test_where_bad_events_are_skipped_one_is(self) -> None:
        chunks, decoder = decoded(text("a") + self.TORN + b"\n\n" + text("b"), on_bad_event="skip")
        assert (["a", "b"], 1) == (contents(chunks), decoder.anomalies)

    def test_a_limit_behind_one_does_not_matter(self) -> None:
        decoder = ChunkDecoder()
        chunks, error = run(decoder, [text("a") + self.TORN + b"\n\n", b"data: " + b"x" * (17 << 20)])
        assert (["a"], StreamLimitError) == (contents(chunks), type(error))

    @pytest.mark.parametrize("limit", [1000, 10])
    def test_nothing_is_waited_for_behind_a_long_deep_one(
        self, monkeypatch: pytest.MonkeyPatch, limit: int
    ) -> None:
        monkeypatch.setattr(tolerant, "_MAX_DEEP", limit)
        decoder = ChunkDecoder(limits=Limits(values=50))
        torn = b'data: {"a":' + b"[" * 70 + b"\n\n"
        if limit == 1000:
            assert [] == decoder.feed(torn)
        with pytest.raises(StreamProtocolError, match="too deep"):
            decoder.feed(torn)

    @pytest.mark.parametrize(
        ("data", "torn"),
        [
            (b'{"a":"b', True),
            (b'{"a":{"b":[1,', True),
            (b"{", True),
            (b"[1,", False),
            (b"", False),
            (b'{"a":1}', False),
            (b"{a", False),
            (b'{"a":1}}', False),
        ],
    )
    def test_what_is_torn(self, data: bytes, torn: bool) -> None:
        assert torn is is_torn(data)


class TestUnanswered:
    @pytest.mark.parametrize(
        ("payloads", "words"),
        [
            (
                ['{"type":"response.created"}', '{"type":"response.output_text.delta","delta":"Go"}'],
                "Responses API",
            ),
            (['{"candidates":[{"content":{"parts":[{"text":"Go"}]}}]}'], "Gemini"),
            (['{"choices":[],"prompt_filter_results":[]}', '{"token":{"text":"Go"}}'], "text-generation"),
            (['{"answer":"Go"}', '{"answer":"on"}'], '{"answer":"Go"}'),
            (['{"answer":"Go"}', '{"type":"thread.run"}', '{"candidates":[]}', "{}"], "the Assistants API"),
            (['{"choices":[],"usage":{"total_tokens":3}}'], "the stream has no choices"),
            (['{"status":"queued"}', '{"choices":null,"id":"c"}'], '{"choices":null'),
            (['{"object":"chat.completion","result":"Go","is_end":true}'], "result"),
        ],
    )
    def test_a_stream_without_choices_is_no_answer(self, payloads: list[str], words: str) -> None:
        """Each payload alone does no harm; at ``[DONE]`` the stream turns out to be of something else."""
        wire = b"".join(map(raw, payloads))
        _, error = refused(wire + DONE)
        assert isinstance(error, StreamProtocolError)
        assert words in error.message
        assert (len(payloads), None) == (error.events, error.partial)
        _, decoder = decoded(wire)
        assert decoder.unanswered is not None
        assert (str(error), error.body) == (str(decoder.unanswered), decoder.unanswered.body)

    @pytest.mark.parametrize(
        "wire", [b"", b": beat\n\n", raw("ping"), raw('{"status":"queued"}'), b"event: done\n" + raw("{}")]
    )
    def test_heartbeats_alone_are_no_stream(self, wire: bytes) -> None:
        _, decoder = decoded(wire + DONE)
        assert (None, True) == (decoder.unanswered, decoder.done)

    @pytest.mark.parametrize(
        "answer",
        [
            text("a"),
            event(delta(role="assistant")),
            STOP,
            raw('{"choices":[{"index":"0","delta":{}}]}'),
            raw('{"choices":[{"text":"a"}]}'),
            b": tolerant\n" + text("a"),
            text("a") * 40,
        ],
    )
    def test_other_payloads_do_no_harm_beside_one_choice(self, answer: bytes) -> None:
        """Gateways mix events of other APIs into the chunks; they are counted."""
        others = [
            raw('{"type":"response.output_item.done","item":{"type":"web_search_call"}}'),
            raw('{"answer":"b"}'),
            raw('{"choices":[],"usage":{"total_tokens":3}}'),
        ]
        for wire in (b"".join(others) + answer, answer + b"".join(others)):
            chunks, decoder = decoded(wire + DONE)
            assert (True, None) == (decoder.done, decoder.unanswered)
            assert {3} == {chunk["usage"]["total_tokens"] for chunk in chunks if chunk.get("usage")}
            assert 2 <= decoder.anomalies <= 3

    def test_usage_of_another_api_is_not_usage(self) -> None:
        chunks, decoder = decoded(
            text("a") + raw('{"type":"response.done","usage":{"total_tokens":3}}') + DONE
        )
        assert (["a"], 1, 1) == (contents(chunks), len(chunks), decoder.anomalies)

    def test_skipped_payloads_are_no_stream(self) -> None:
        _, decoder = decoded(raw("nonsense") + raw("[1]") + DONE, on_bad_event="skip")
        assert (None, 2) == (decoder.unanswered, decoder.anomalies)

    def test_the_beginning_of_the_payload_is_safe_to_print(self) -> None:
        _, error = refused(raw('{"answer":"\\u202e\x7f' + "x" * 500 + '"}') + DONE)
        assert error.message.isprintable()
        assert len(error.message) < 500


@pytest.mark.parametrize("keep_body", [False, True])
def test_values_without_a_limit(keep_body: bool) -> None:
    """And with the path that was taken, which only time would show."""
    wire = text("a", x=[[]] * 20_000)
    decoder = ChunkDecoder(limits=Limits(values=None), keep_body=keep_body)
    assert ["a"] == [chunk.choices[0].delta.content for chunk in decoder.feed(wire)]
    assert (int(keep_body), 0) == (decoder._tolerant, decoder.anomalies)


def test_a_chunk_with_an_error_of_zeros_is_not_repaired() -> None:
    """Repairs would drop numbers of so many digits."""
    call = {"index": 0, "extra_content": {"x": 10**18}}
    (chunk,) = ChunkDecoder().feed(event(delta(tool_calls=[call]), error={"code": 0, "message": ""}))
    calls = chunk.choices[0].delta.tool_calls
    assert calls is not None
    assert {"x": 10**18} == calls[0].extra_content


def test_short_payloads_may_have_long_numbers() -> None:
    decoder = ChunkDecoder(keep_body=True)  # so that all payloads take the tolerant path
    assert 1 == len(decoder.feed(text("a", x=10**200)))
    assert 0 == decoder.anomalies


@pytest.mark.parametrize(
    "value", ['"it failed"', '"error"', "7", "false", '{"message":"x"}', '{"status_code":5}']
)
@pytest.mark.parametrize(
    "name",
    [*error_bodies._ERRORS, *error_bodies._MESSAGES, *error_bodies._CODES, *error_bodies._TYPES, "success", "ok", "object",
     "base_resp", "error_code", "statusCode", "errorMessage", "status-msg"],
)  # fmt: skip
def test_an_error_beside_usage_and_no_choices_is_found(name: str, value: str) -> None:
    """An ordinary payload of usage is not searched for an error. No error must look like one, whatever its name."""
    for written in (name, name.title(), name.upper()):
        body = f'{{"id":"c-1","choices":[],"usage":{{"total_tokens":3}},"{written}":{value}}}'
        chunks, error = run(ChunkDecoder(), [text("a"), raw(body), DONE])
        is_error = error_bodies.find_error(json.loads(body)) is not None
        assert (["a"], is_error) == (contents(chunks)[:1], isinstance(error, StreamServerError)), written


def test_what_was_assembled_is_what_was_understood() -> None:
    assembler = CompletionAssembler()
    wire = raw('{"status":"queued"}') + text("a")[:-1] + text("b") + raw('{"message":"wait"}') + STOP
    for chunk in ChunkDecoder().feed(wire):
        assembler.add(chunk)
    assert ("ab", True) == (assembler.completion.choices[0].message.content, assembler.complete)
