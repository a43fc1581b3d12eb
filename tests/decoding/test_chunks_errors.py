"""`ChunkDecoder` raises what servers say went wrong, and what is no chunk, after the chunks before."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from wire import DONE, contents, decoded, event, raw, refused, run, text

from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamError, StreamLimitError, StreamProtocolError, StreamServerError
from gradient_async.types import ChatCompletionChunk, ChoiceDelta, ChunkChoice, ToolCallDelta

ERRORS: dict[str, tuple[bytes, str, str | None, str | None, str | None]] = {
    "OpenAI": (raw('{"error":{"message":"busy","type":"server_error","code":"overloaded","param":"n"}}'), "busy", "overloaded", "server_error", "n"),
    "text": (raw('{"error":"upstream died"}'), "upstream died", None, None, None),
    "text with a code": (raw('{"code":"bad","error":"no","error_type":"validation"}'), "no", "bad", "validation", None),
    "DigitalOcean": (raw('{"id":"server_error","message":"oops","request_id":"r-1"}'), "oops", "server_error", None, None),
    "Anthropic": (raw('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'), "Overloaded", None, "overloaded_error", None),
    "FastAPI": (raw('{"detail":"Not allowed"}'), "Not allowed", None, None, None),
    "FastAPI list": (raw('{"detail":[{"loc":["body","n"],"msg":"too big","type":"v"},{"msg":"bad"}]}'), "body.n: too big; bad", None, None, None),
    "code alone": (raw('{"code":529}'), "no message", "529", None, None),
    "named": (b"event: error\n" + raw('{"message":"full","code":529}'), "full", "529", None, None),
    "named text": (b"event: error\ndata: it broke\n\n", "it broke", None, None, None),
    "named list": (b"event: error\n" + raw('[{"error":{"message":"listed","code":400}}]'), "listed", "400", None, None),
    "named empty": (b"event: error\ndata:\n\n", "no message", None, None, None),
    "named done": (b"event: error\ndata: [DONE]\n\n", "[DONE]", None, None, None),
    "named chunk": (b"event: error\n" + text("a"), "no message", None, None, None),
    "named chunk, mixed line ends": (b"event: error\r\n" + text("a"), "no message", None, None, None),
    "with choices": (event({"index": 0, "delta": {"content": ""}, "finish_reason": "error"}, error={"code": 502, "message": "gone"}), "gone", "502", None, None),
    "with no choices": (event(error={"message": "gone"}), "gone", None, None, None),
    "choices null": (raw('{"choices":null,"message":"m"}'), "m", None, None, None),
    "empty": (raw('{"error":{}}'), "no message", None, None, None),
    "bad UTF-8": (b'data: {"error":"\xff"}\n\n', "\ufffd", None, None, None),
    "odd numbers": (raw('{"error":{"message":"m","code":1e999,"x":NaN}}'), "m", "inf", None, None),
}  # fmt: skip


class TestErrors:
    @pytest.mark.parametrize(("wire", "message", "code", "kind", "param"), ERRORS.values(), ids=ERRORS)
    def test_of_every_shape(
        self, wire: bytes, message: str, code: str | None, kind: str | None, param: str | None
    ) -> None:
        """An error inside the stream is raised after the chunks before it, and what follows it is not read."""
        chunks, error = refused(text("a") + text("b") + wire + text("c") + DONE)
        assert ["a", "b"] == contents(chunks)
        assert isinstance(error, StreamServerError)
        assert message in error.message
        assert (code, kind, param) == (error.code, error.type, error.param)
        assert (3, None) == (error.events, error.partial)

    def test_request_id_and_body_are_kept(self) -> None:
        _, error = refused(ERRORS["DigitalOcean"][0])
        assert "r-1" == error.request_id
        assert {"id": "server_error", "message": "oops", "request_id": "r-1"} == error.body

    def test_text_is_escaped_and_cut(self) -> None:
        body = {"error": {"message": "a\r\nb\x1b[2J\u202e" + "x" * 600, "code": "c\nd" + "y" * 600}}
        _, error = refused(raw(json.dumps(body)))
        assert error.message.isprintable()
        assert "a\\r\\nb\\x1b[2J\\u202e" in error.message
        assert len(error.message) < 800
        assert body == error.body, "raw in the body"

    @pytest.mark.parametrize("field", ["null", "false", "0"])
    def test_no_error_is_no_error(self, field: str) -> None:
        chunks, decoder = decoded(text("a", error=json.loads(field)) + event(error=json.loads(field)))
        assert (["a"], 2) == (contents(chunks), len(chunks))
        assert 0 == decoder.anomalies

    @pytest.mark.parametrize("field", ["{}", '""', "[]", '{"code":0,"message":""}', '{"message":null}'])
    def test_an_empty_error_beside_choices_is_none(self, field: str) -> None:
        chunks, _ = decoded(
            text("a", error=json.loads(field)) + event(error=json.loads(field), usage={"total_tokens": 1})
        )
        assert 2 == len(chunks)

    def test_words_beside_choices_are_no_error(self) -> None:
        """Some gateways say that all is well in every chunk."""
        chunks, _ = decoded(text("a", code=200, message="success") + event(code=200, message="success"))
        assert 2 == len(chunks)

    def test_one_error_ends_it_all(self) -> None:
        decoder = ChunkDecoder()
        assert 1 == len(decoder.feed(text("a") + raw('{"error":"x"}')))
        calls: list[Callable[[], object]] = [
            lambda: decoder.feed(b""),
            lambda: decoder.feed(text("b")),
            decoder.decode_slice,
            decoder.close,
        ]
        for call in calls:
            with pytest.raises(StreamServerError) as raised:
                call()
            assert decoder.error is raised.value
        assert 0 == decoder.pending

    @pytest.mark.parametrize("end", [b"", b"\n\n"])
    def test_half_a_character_before_it_is_dropped(self, end: bytes) -> None:
        """Whether or not the error is the last event, and lacks its blank line."""
        half = raw('{"choices":[{"delta":{"content":"a\\ud83d"}}]}')
        chunks, error = refused(half + raw('{"error":"x"}')[:-2] + end)
        assert (["a"], "StreamServerError") == (contents(chunks), type(error).__name__)

    def test_a_torn_event_counts_before_one_with_too_many_values(self) -> None:
        torn = raw('{"choices":[{"delta":{"content":"hal')
        heavy = raw('{"choices":[],"x":[' + ",".join("0" * 2000) + "]}")
        chunks, error = refused(text("a") + torn + heavy, limits=Limits(values=1000))
        assert (["a"], "StreamProtocolError") == (contents(chunks), type(error).__name__)
        _, error = refused(text("a") + heavy, limits=Limits(values=1000))
        assert "StreamLimitError" == type(error).__name__

    def test_skip_never_skips_errors(self) -> None:
        chunks, error = refused(raw("nonsense") + text("a") + raw('{"error":"x"}'), on_bad_event="skip")
        assert (["a"], "StreamServerError") == (contents(chunks), type(error).__name__)


BAD = {
    "not JSON": b"data: {nonsense\n\n",
    "text": b"data: hello\n\n",
    "number": raw("1"),
    "string": raw('"x"'),
    "list": raw("[]"),
    "true": raw("true"),
    "nested lists": b"data: " + b"[" * 200_000 + b"\n\n",
    "nested objects": b'data: {"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}\n\n",
    "choices no list": raw('{"choices":"x"}'),
    "choice null": raw('{"choices":[null]}'),
    "delta no object": raw('{"choices":[{"delta":5}]}'),
    "content a number": raw('{"choices":[{"delta":{"content":5}}]}'),
    "index no number": raw('{"choices":[{"index":"x","delta":{}}]}'),
    "index a fraction": raw('{"choices":[{"index":0.5,"delta":{}}]}'),
    "index too big": raw('{"choices":[{"index":' + "9" * 5000 + ',"delta":{}}]}'),
    "index infinite": raw('{"choices":[{"index":1e999,"delta":{}}]}'),
    "tool calls no list": raw('{"choices":[{"delta":{"tool_calls":5}}]}'),
    "tool call null": raw('{"choices":[{"delta":{"tool_calls":[null]}}]}'),
    "tool index infinite": raw('{"choices":[{"delta":{"tool_calls":[{"index":NaN}]}}]}'),
    "tool index too big": raw('{"choices":[{"delta":{"tool_calls":[{"index":' + "9" * 5000 + "}]}}]}"),
}


class TestBadEvents:
    @pytest.mark.parametrize("wire", BAD.values(), ids=BAD)
    def test_raise_after_the_chunks_before(self, wire: bytes) -> None:
        """One error that says which event, and how it begins."""
        decoder = ChunkDecoder()
        chunks, error = run(decoder, [text("a") + text("b") + wire + text("c")])
        assert ["a", "b"] == contents(chunks)
        assert isinstance(error, StreamProtocolError)
        assert "event 3 of the stream is not a chat completion chunk" in error.message
        assert wire[6:20].decode().strip()[:14] in error.message
        assert error.message.isprintable()
        assert len(error.message) < 1200
        assert wire[6:-2].decode()[:200] == error.body
        assert (3, None) == (error.events, error.partial)

    @pytest.mark.parametrize("name", ["not JSON", "number", "choice null"])
    def test_wherever_they_are_cut(self, name: str) -> None:
        chunks, _ = refused(text("a") + BAD[name] + text("c"))
        assert ["a"] == contents(chunks)

    @pytest.mark.parametrize("wire", BAD.values(), ids=BAD)
    def test_are_skipped_if_that_is_wanted(self, wire: bytes) -> None:
        """For gateways that mix other text into the stream: skipped, and counted."""
        decoder = ChunkDecoder(on_bad_event="skip")
        chunks, error = run(decoder, [text("a") + wire + text("c") + DONE])
        assert (["a", "c"], None) == (contents(chunks), error)
        assert (3, 1, True) == (decoder.events, decoder.anomalies, decoder.done)

    def test_strict_and_skip(self) -> None:
        chunks, decoder = decoded(
            text("a").replace(b'"a"', b'"\xff"') + text("b"), strict=True, on_bad_event="skip"
        )
        assert (["b"], 1) == (contents(chunks), decoder.anomalies)

    @pytest.mark.parametrize(
        ("index", "kind"),
        [
            ("-1", StreamProtocolError),
            ("1000000000", StreamLimitError),
            ("9" * 30, StreamLimitError),
            ('"1000000000"', StreamLimitError),
        ],
    )
    def test_indices_are_judged_by_who_assembles(self, index: str, kind: type[StreamError]) -> None:
        """A chunk of any 64-bit index decodes; assembling it is refused without allocating anything."""
        chunks = ChunkDecoder().feed(raw(f'{{"choices":[{{"index":{index},"delta":{{"content":"a"}}}}]}}'))
        assembler = CompletionAssembler()
        with pytest.raises(kind):
            assembler.add(chunks[0])
        assert [] == assembler.completion.choices

    @pytest.mark.parametrize(
        ("choice", "kind"),
        [
            ('"index":-1', StreamProtocolError),
            ('"index":3', StreamLimitError),
            ('"index":"3"', StreamLimitError),
            ('"delta":{"tool_calls":[{"index":2}]}', StreamLimitError),
            ('"delta":{"tool_calls":[{"index":-1}]}', StreamProtocolError),
            ('"delta":{"tool_calls":[{"index":"2"}]}', StreamLimitError),
        ],
    )
    def test_where_n_is_known_they_are_judged_before_anybody_sees_them(
        self, choice: str, kind: type[StreamError]
    ) -> None:
        """What came before in the same bytes is returned, what comes after is not."""
        decoder = ChunkDecoder(n=3, limits=Limits(choices=1, tool_calls=2))
        fine = raw('{"choices":[{"index":2,"delta":{"tool_calls":[{"index":1}]}}]}')
        chunks = decoder.feed(text("a") + fine + raw(f'{{"choices":[{{{choice}}}]}}') + text("b"))
        assert [0, 2] == [chunk.choices[0].index for chunk in chunks]
        with pytest.raises(kind):
            decoder.feed(b"")


def test_the_first_of_two_errors_is_the_one_told() -> None:
    """An error event, and behind it in the same bytes a line that is too long."""
    decoder = ChunkDecoder(limits=Limits(line_bytes=300, event_bytes=300))
    wire = b": hi\n\n" + text("a") + raw('{"error":"boom"}') + b"data: " + b"x" * 400 + b"\n\n"
    assert ["a"] == [choice.delta.content for chunk in decoder.feed(wire) for choice in chunk.choices]
    with pytest.raises(StreamServerError, match="boom"):
        decoder.feed(b"")


@pytest.mark.parametrize(
    ("index", "call", "kind"),
    [(3, 0, StreamLimitError), (-1, 0, StreamProtocolError), (0, 2, StreamLimitError)],
)
def test_a_chunk_that_was_decoded_otherwise_is_checked_as_well(
    index: int, call: int, kind: type[StreamError]
) -> None:
    """A whole completion in place of a stream, say; and only where n is known."""
    chunk = ChatCompletionChunk(
        choices=[ChunkChoice(index=index, delta=ChoiceDelta(tool_calls=[ToolCallDelta(index=call)]))]
    )
    with pytest.raises(kind):
        ChunkDecoder(n=3, limits=Limits(choices=1, tool_calls=2)).check(chunk)
    ChunkDecoder(n=4, limits=Limits(tool_calls=3)).check(ChatCompletionChunk(choices=[ChunkChoice(index=3)]))
    ChunkDecoder(limits=Limits(choices=1, tool_calls=2)).check(chunk)
