"""What hooks and the log are told of calls."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
from client_calls import CALL, Start, create_completion, open_stream

from gradient_async import (
    APIConnectionError,
    APIError,
    AsyncGradient,
    CallInfo,
    ConfigurationError,
    GradientError,
    Hook,
    Retry,
    StreamInterruptedError,
    StreamTruncatedError,
)
from gradient_async.testing import CLOSE, HOLD, chunk, reply_json, reply_sse, reply_writes

KEY = "sk-model-0123456789-KEY"
PIECES = [chunk("Hel"), chunk("lo"), chunk(finish_reason="stop", usage={"completion_tokens": 2})]


class Notes(Hook):
    """Writes down what it is told, and of the last call all that is known."""

    last: CallInfo

    def __init__(self) -> None:
        self.lines: list[str] = []

    def _note(self, event: str, call: CallInfo) -> None:
        self.last = call
        call.state.setdefault("events", []).append(event)

    def on_request(self, call: CallInfo) -> None:
        self._note("request", call)
        self.lines.append(f"request {call.attempts}")

    def on_response(self, call: CallInfo) -> None:
        self._note("response", call)
        self.lines.append(f"response {call.status_code}")

    def on_retry(self, call: CallInfo) -> None:
        self._note("retry", call)
        assert call.wait is not None
        self.lines.append(f"retry after {type(call.error).__name__}")

    def on_end(self, call: CallInfo) -> None:
        self._note("end", call)
        self.lines.append(f"{call.outcome} {call.error_type}")


@pytest.fixture
def notes() -> Notes:
    return Notes()


async def test_an_awaited_call(start: Start, notes: Notes) -> None:
    _, client = await start(hooks=[notes])
    completion = await create_completion(client, temperature=0.5)
    assert ["request 1", "response 200", "completed None"] == notes.lines
    call = notes.last
    assert ("chat", "POST", False, 0.5) == (
        call.operation,
        call.method,
        call.stream,
        call.params["temperature"],
    )
    assert call.url.endswith("/v1/chat/completions")
    assert (completion, None, ["request", "response", "end"]) == (
        call.completion,
        call.error,
        call.state["events"],
    )
    assert call.elapsed > 0
    await client.agents.chat.completions.create(messages=CALL["messages"])
    assert notes.last.operation == "agent"
    await client.models.list()
    assert ("models", "completed") == (notes.last.operation, notes.last.outcome)


async def test_a_retry(start: Start, notes: Notes) -> None:
    _, client = await start(
        reply_json({"message": "no room"}, 503, {"x-request-id": "r1"}),
        hooks=[notes],
        max_retries=1,
        retry=Retry(max_backoff=0.01),
    )
    await create_completion(client)
    assert notes.lines == [
        "request 1",
        "response 503",
        "retry after OverloadedError",
        "request 2",
        "response 200",
        "completed None",
    ]
    assert (notes.last.attempts, notes.last.error, notes.last.wait) == (2, None, None)


async def test_a_failed_call(start: Start, notes: Notes) -> None:
    _, client = await start(
        reply_json({"id": "unauthorized", "request_id": "r7"}, 401, {"connection": "close"}),
        reply_writes([CLOSE]),
        hooks=[notes],
    )
    with pytest.raises(GradientError) as caught:
        await create_completion(client)
    assert ["request 1", "response 401", "failed 401"] == notes.lines
    assert (caught.value, "r7") == (notes.last.error, notes.last.request_id)
    with pytest.raises(APIConnectionError):
        await create_completion(client)
    assert notes.lines[3:] == ["request 1", "failed APIConnectionError"]


async def test_a_reply_that_is_no_completion(start: Start, notes: Notes) -> None:
    _, client = await start(reply_json({"choices": "x"}), hooks=[notes])
    with pytest.raises(GradientError):
        await create_completion(client)
    assert notes.lines[-1] == "failed APIResponseValidationError"


async def test_a_stream(start: Start, notes: Notes) -> None:
    _, client = await start(reply_writes([0.01, *reply_sse(*PIECES, gap=0.01).steps]), hooks=[notes])
    stream = await open_stream(client)
    assert ["request 1", "response 200"] == notes.lines
    await stream.completion()
    assert notes.lines[2:] == ["completed None"]
    call = notes.last
    assert call.completion is not None
    assert (call.completion.choices[0].message.content, call.stream) == ("Hello", True)
    assert call.first_token is not None
    assert 0 < call.first_token < call.elapsed
    await stream.aclose()
    assert len(notes.lines) == 3


async def test_a_stream_that_fails(start: Start, notes: Notes) -> None:
    _, client = await start(reply_sse(*PIECES[:1], done=False), hooks=[notes])
    stream = await open_stream(client)
    with pytest.raises(StreamTruncatedError):
        await stream.completion()
    assert notes.lines[2:] == ["failed StreamTruncatedError"]
    assert notes.last.completion is not None
    assert notes.last.completion.choices[0].message.content == "Hel"


@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_a_stream_that_is_left(start: Start, notes: Notes, how: str) -> None:
    _, client = await start(reply_writes([*reply_sse(*PIECES).steps[:3], HOLD]), hooks=[notes])
    stream = await open_stream(client)
    await anext(stream)
    if how == "closed":
        await stream.aclose()
        assert isinstance(notes.last.error, StreamInterruptedError)
    else:
        with pytest.warns(ResourceWarning):
            del stream
        assert notes.last.error is None
    assert (notes.last.outcome, notes.lines[2:3]) == ("left", [f"left {notes.last.error_type}"])


@pytest.mark.usefixtures("virtual_time")
async def test_a_cancelled_call(start: Start, notes: Notes) -> None:
    _, client = await start(
        reply_writes([HOLD]), reply_writes([reply_json({}).data[:-1], HOLD]), hooks=[notes]
    )
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await create_completion(client)
        assert (notes.last.outcome, notes.last.error_type) == ("cancelled", "CancelledError")


async def test_raw_replies_end_when_they_are_read_or_closed(start: Start, notes: Notes) -> None:
    _, client = await start(hooks=[notes])
    completions: Any = client.chat.completions
    raw = await completions.with_raw_response.create(**CALL)
    assert (notes.lines[-1], (await raw.parse()).choices != []) == ("completed None", True)
    async with completions.with_streaming_response.create(**CALL) as response:
        assert [data async for data in response.iter_bytes()]
    assert notes.lines[-1] == "completed None"
    async with completions.with_streaming_response.create(**CALL):
        pass
    assert notes.last.outcome == "left"


async def test_a_hook_that_fails_changes_nothing(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Hook):
        def on_request(self, call: CallInfo) -> None:
            raise ValueError("words of a prompt")

    notes = Notes()
    _, client = await start(hooks=[Broken(), notes])
    assert (await create_completion(client)).choices
    assert ["request 1", "response 200", "completed None"] == notes.lines
    assert "a hook failed: " in caplog.text
    assert "Broken.on_request raised ValueError" in caplog.text
    assert ", in on_request" in caplog.text
    assert "words of a prompt" not in caplog.text.replace('raise ValueError("words of a prompt")', "")


async def test_a_hook_that_fails_brings_no_words_of_a_server_into_the_log(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """It is called while the error of the call is handled, which is its context then."""

    class Broken(Hook):
        def on_end(self, call: CallInfo) -> None:
            raise RuntimeError(str(call.error)) from call.error

    _, client = await start(reply_json({"message": "words of a server"}, 400), hooks=[Broken()])
    with pytest.raises(APIError):
        await create_completion(client)
    assert "Broken.on_end raised RuntimeError" in caplog.text
    assert "words of a server" not in caplog.text


async def test_a_hook_does_not_keep_a_stream_alive(start: Start, notes: Notes) -> None:
    server, client = await start(reply_writes([*reply_sse(*PIECES).steps[:3], HOLD]), hooks=[notes])
    stream = await open_stream(client)
    gc.disable()
    try:
        with pytest.warns(ResourceWarning):
            del stream
        await server.wait_closed_connections()
    finally:
        gc.enable()


async def test_a_copy_may_have_other_hooks(start: Start, notes: Notes) -> None:
    _, client = await start(hooks=[notes])
    await create_completion(client.with_options(hooks=[]))
    assert notes.lines == []
    await create_completion(client.with_options(timeout=5))
    assert len(notes.lines) == 3


def test_a_hook_has_to_be_one() -> None:
    hooks: Any = [object()]
    with pytest.raises(ConfigurationError, match="object is not a Hook"):
        AsyncGradient(hooks=hooks)


async def test_the_log_tells_of_attempts_but_not_of_words(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="gradient_async")
    _, client = await start(
        reply_json({"message": f"secret words, {KEY}"}, 429, {"x-request-id": "r1", "retry-after": "0.01"}),
        reply_sse(*PIECES, headers={"x-request-id": "r2"}),
        model_access_key=KEY,
        max_retries=1,
        retry=Retry(max_backoff=0.01),
    )
    stream = await open_stream(client)
    await stream.completion()
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in lines] == [
        "request",
        "response",
        "retry",
        "request",
        "response",
        "end",
    ]
    assert "attempt=1 status=429" in lines[2]
    assert "request_id=r1" in lines[2]
    assert "end completed after" in lines[5]
    assert "attempts=2 status=200 request_id=r2" in lines[5]
    assert lines[5].endswith("tokens=0+2")
    for hidden in (KEY, "secret words", "Hel"):
        assert hidden not in caplog.text


async def test_the_name_of_a_model_forges_no_line_of_the_log(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the caller's, who may have it from a user."""
    caplog.set_level(logging.DEBUG, logger="gradient_async")
    _, client = await start()
    await create_completion(client, model="m\nend completed\x1b[2K\u202e" + "x" * 999)
    line = next(record.getMessage() for record in caplog.records)
    assert "model=m\\nend completed\\x1b[2K\\u202exxx" in line
    assert len(line) < 400


async def test_the_log_tells_of_waits(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """For a free connection, and because the server said so."""
    caplog.set_level(logging.INFO, logger="gradient_async")
    _, client = await start(
        reply_writes([0.05, reply_json({}, 429, {"retry-after": "0.05"}).data]),
        reply_writes([0.05, reply_json({}).data]),
        max_connections=1,
    )
    results = await asyncio.gather(
        create_completion(client), create_completion(client), return_exceptions=True
    )
    assert all(isinstance(result, GradientError) for result in results)
    await create_completion(client)
    assert "for a free connection; raise max_connections" in caplog.text
    caplog.clear()
    _, client = await start(reply_json({}, 429, {"retry-after": "0.05"}))
    with pytest.raises(GradientError):
        await create_completion(client)
    await create_completion(client)
    assert "the server asked another call to wait" in caplog.text


async def test_a_stream_tells_how_long_it_queued(start: Start) -> None:
    _, client = await start(reply_writes([0.1, reply_json({}).data]), max_connections=1)
    first = asyncio.create_task(create_completion(client))
    await asyncio.sleep(0.02)
    stream = await open_stream(client)
    await stream.completion()
    assert 0.05 < stream.timing.queued < 0.5
    with pytest.raises(GradientError):
        await first
