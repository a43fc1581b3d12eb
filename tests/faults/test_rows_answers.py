"""What counts as an answer, and what does not: nothing that was not understood passes for an empty completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fault_requests import BOTH_WAYS, RETRYING, Ask, ask_repeatedly, expect_whole
from fault_rows import FINISH, TEXT, TOKENS, Start, asked, expect_connection, failed, streamed, tokens

from gradient_async import (
    APIResponseValidationError,
    APIStatusError,
    NotFoundError,
    StreamError,
    StreamInterruptedError,
    StreamProtocolError,
    StreamServerError,
    StreamTruncatedError,
)
from gradient_async.testing import (
    CLOSE,
    Handler,
    chunk,
    completion,
    head,
    http_chunk,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    sse,
)

STREAM = {"content-type": "text/event-stream"}
AZURE = {"choices": [], "object": "", "prompt_filter_results": [{"prompt_index": 0}]}


def elsewhere(field: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """The same chunk with its content under another name."""
    (choice,) = part["choices"]
    content = choice["delta"].get("content", "")
    moved = {"content": content} if field == "message" else content
    return {**part, "choices": [{"index": 0, "finish_reason": choice["finish_reason"], field: moved}]}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([elsewhere("message", each) for each in [*TOKENS, FINISH]], id="text_in_message"),
        pytest.param([elsewhere("text", each) for each in [*TOKENS, FINISH]], id="text_in_choice"),
        pytest.param([completion(TEXT)], id="completion_as_event"),
        pytest.param([*TOKENS, completion(TEXT)], id="completion_at_end"),
        pytest.param(
            [{**each, "choices": [{**each["choices"][0], "message": {"content": TEXT[: 5 * at + 5]}}]}
             for at, each in enumerate(TOKENS)] + [FINISH],
            id="message_beside_deltas",
        ),
        pytest.param(
            [b"event: ping\ndata: {}\n\n", *TOKENS, "ping", b"event: done\ndata: {}\n\n", FINISH],
            id="heartbeats_named",
        ),
        pytest.param([{"status": "queued"}, {"message": "loading"}, *TOKENS, FINISH, {"code": 200}], id="progress_objects"),
        pytest.param([AZURE, *TOKENS, FINISH], id="first_event_without_choices"),
        pytest.param([{"type": "response.output_item.done"}, *TOKENS, FINISH], id="foreign_event_among_chunks"),
        pytest.param([sse(*TOKENS, FINISH, done=False).replace(b"\n\n", b"\n")], id="blank_lines_forgotten"),
        pytest.param([*TOKENS, FINISH, '"[DONE]"'], id="done_in_quotes"),
    ],
)  # fmt: skip
async def test_answers_in_other_shapes(start: Start, events: list[Any]) -> None:
    server, client = await start(reply_sse(*events), **RETRYING)
    await expect_whole(server, client, await streamed(client), "reused")


@pytest.mark.parametrize("word", [pytest.param("null", id="finish_in_words"), "None", "", False, 0])
async def test_a_finish_reason_that_is_none(start: Start, word: Any) -> None:
    """The stream is cut, and must not pass for whole; with its end it is."""
    odd = [{**each, "choices": [{**each["choices"][0], "finish_reason": word}]} for each in TOKENS]
    server, client = await start(reply_sse(*odd, done=False), reply_sse(*odd, FINISH), **RETRYING)
    failed(await streamed(client), StreamTruncatedError, text=TEXT, attempts=1)
    seen = await streamed(client)
    assert (TEXT, None) == (seen.delivered, seen.error)
    assert len(server.requests) == 2


RESPONSES: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"id": "r"}},
    {"type": "response.output_text.delta", "delta": "tok0 "},
    {"type": "response.completed", "response": {"id": "r", "output": []}},
]
OLLAMA = b'{"model":"m","message":{"role":"assistant","content":"tok0 "},"done":false}\n{"model":"m","done":true}\n'
GEMINI = b'[{"candidates":[{"content":{"parts":[{"text":"tok0 "}]}}]},\n{"candidates":[]}]'


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        pytest.param(reply_sse(*RESPONSES), "Responses API", id="other_api"),
        pytest.param(reply_sse(*RESPONSES, done=False), "Responses API", id="other_api_without_done"),
        pytest.param(reply_sse({"answer": "tok0 "}), "the stream has no choices", id="no_choices"),
        pytest.param(reply_sse(AZURE, done=False), "prompt_filter_results", id="no_choices_without_done"),
        pytest.param(
            reply_bytes(OLLAMA, content_type="application/x-ndjson"), "Ollama", id="other_api_as_lines"
        ),
        pytest.param(reply_bytes(GEMINI, content_type="application/json"), "Gemini", id="other_api_as_list"),
    ],
)
async def test_no_answer(start: Start, reply: Handler, says: str) -> None:
    """The error names what came."""
    _, client, seen = await ask_repeatedly(start, streamed, reply, posts=1)
    failed(seen, StreamProtocolError, text="", says=says, attempts=1)
    del client


async def test_only_heartbeats(start: Start) -> None:
    """A server that only tells its progress has not begun to answer."""
    reply = reply_sse({"status": "queued"}, "ping", {"message": "loading"})
    _, client, seen = await ask_repeatedly(start, streamed, reply, posts=1)
    failed(seen, StreamTruncatedError, text="", says="before any chunk", attempts=1)
    del client


async def test_a_lost_connection_is_told_before_what_is_missing(start: Start) -> None:
    """Nobody knows what the rest of the stream would have been."""
    lost = reply_writes(
        [head(200, {**STREAM, "transfer-encoding": "chunked"}), http_chunk(sse(AZURE, done=False)), CLOSE]
    )
    _, client, seen = await ask_repeatedly(start, streamed, lost, posts=1)
    failed(seen, StreamInterruptedError, text="", says="lost in the middle", attempts=1)
    del client


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        pytest.param(b'error: {"message":"no room","code":501}\n\n', "501", id="error_field"),
        pytest.param(b'{"error":{"message":"no room","code":502}}\n', "502", id="error_bare_line"),
        pytest.param(
            sse(TOKENS[3], done=False)[:60] + b'{"error":{"message":"no room","code":503}}\n\n', "503", id="error_glued"
        ),
        pytest.param(
            sse({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "no room"}}), "1002", id="error_other_names"
        ),
        pytest.param(sse({"error_code": 18, "error_msg": "no room"}), "18", id="error_code"),
        pytest.param(sse({"errors": [{"message": "no room"}]}), None, id="errors_list"),
        pytest.param(
            sse({"error": {"message": "gateway", "metadata": {"raw": '{"error":{"message":"no room"}}'}}}),
            None,
            id="error_deeper",
        ),
    ],
)  # fmt: skip
async def test_errors_under_other_names(start: Start, lines: bytes, code: str | None) -> None:
    body = sse(*TOKENS[:3], done=False) + lines
    _, client, seen = await ask_repeatedly(start, streamed, reply_bytes(body, 200, STREAM), posts=1)
    failed(seen, StreamServerError, text=tokens(3), says="no room", code=code, attempts=1)
    del client


async def test_page_in_stream(start: Start) -> None:
    """A gateway's page behind three tokens: the stream is cut, and the error has the page's words."""
    page = b"<html><head><title>524: no answer</title><style>p { color: red }</style></head></html>"
    body = sse(*TOKENS[:3], done=False) + page
    _, client, seen = await ask_repeatedly(start, streamed, reply_bytes(body, 200, STREAM), posts=1)
    error = failed(seen, StreamTruncatedError, text=tokens(3), says="'524: no answer'", attempts=1)
    assert "color" not in str(error)
    del client


# Awaited


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(reply_sse(*TOKENS, FINISH), id="stream_for_awaited"),
        pytest.param(reply_bytes(sse(*TOKENS, FINISH, done=False)[:-2], content_type="text/plain"), id="without its end"),
        pytest.param(reply_bytes(b": hi\n\n" + sse(*TOKENS, FINISH), content_type="application/json"), id="as JSON"),
        pytest.param(reply_json(elsewhere("text", chunk(TEXT, finish_reason="stop"))), id="awaited_text_in_choice"),
        pytest.param(reply_json(chunk(TEXT, finish_reason="stop")), id="awaited_chunk"),
    ],
)  # fmt: skip
async def test_awaited_answers_in_other_shapes(start: Start, reply: Handler) -> None:
    server, client = await start(reply, **RETRYING)
    seen = await asked(client)
    assert (TEXT, None) == (seen.delivered, seen.error)
    assert seen.completion is not None
    assert "stop" == seen.completion.choices[0].finish_reason
    assert 1 == seen.completion.attempts
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize(
    ("body", "count", "kind", "says"),
    [
        pytest.param(sse(*TOKENS[:3], done=False), 3, StreamTruncatedError, "neither [DONE] nor", id="awaited_stream_cut"),
        pytest.param(sse(*TOKENS[:3], {"error": "no room"}), 3, StreamServerError, "no room", id="awaited_stream_error"),
        pytest.param(sse(*TOKENS[:3], "nonsense"), 3, StreamProtocolError, "event 4", id="awaited_stream_bad"),
        pytest.param(sse(*RESPONSES), 0, StreamProtocolError, "Responses API", id="awaited_stream_foreign"),
    ],
)  # fmt: skip
async def test_an_awaited_stream_is_judged_as_any_other(
    start: Start, body: bytes, count: int, kind: type[StreamError], says: str
) -> None:
    """What came of it is in ``.partial``."""
    _, client, seen = await ask_repeatedly(start, asked, reply_bytes(body, 200, STREAM), posts=1)
    error = failed(seen, kind, says=says, attempts=1, status_code=200, bytes_received=len(body))
    assert error.partial is not None
    assert tokens(count) == "".join(choice.message.content or "" for choice in error.partial.choices)
    del client


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        pytest.param({"id": "c", "choices": []}, APIResponseValidationError, "no choices", id="awaited_no_choices"),
        pytest.param({"message": "loading"}, APIResponseValidationError, "'loading'", id="awaited_progress"),
        pytest.param({"candidates": [{"content": "tok0"}]}, APIResponseValidationError, "Gemini", id="awaited_other_api"),
        pytest.param({"base_resp": {"status_code": 1004, "status_msg": "no room"}}, APIStatusError, "no room", id="awaited_error"),
        pytest.param({"error_code": 4, "error_msg": "no room", "choices": []}, APIStatusError, "no room", id="error code"),
    ],
)  # fmt: skip
async def test_awaited_replies_that_are_none(start: Start, body: Any, kind: Any, says: str) -> None:
    _, client, seen = await ask_repeatedly(start, asked, reply_json(body), posts=1)
    failed(seen, kind, says=says, attempts=1, status_code=200)
    del client


@BOTH_WAYS
async def test_status_4xx_errors_list(start: Start, ask: Ask) -> None:
    """The words of a list of errors, and those of a page, are in the message."""
    reply = reply_json({"errors": [{"message": "no such model"}, {"message": "nor endpoint"}]}, 404)
    _, client, seen = await ask_repeatedly(start, ask, reply, posts=1)
    failed(seen, NotFoundError, says="no such model; nor endpoint", status_code=404)
    del client


async def test_status_4xx_stream(start: Start) -> None:
    """Some servers answer a request for a stream with a status and a stream that holds the error."""
    reply = reply_bytes(sse({"error": {"message": "no such model", "code": "c7"}}), 404, STREAM)
    _, client, seen = await ask_repeatedly(start, streamed, reply, posts=1)
    failed(seen, NotFoundError, says="no such model", status_code=404, code="c7")
    del client
