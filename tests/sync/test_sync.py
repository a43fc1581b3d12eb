"""`Gradient` does without asyncio what `AsyncGradient` does with it."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import threading
import traceback
import weakref
from collections.abc import Iterator
from typing import Any, Self, get_origin, get_type_hints
from unittest.mock import create_autospec, patch

import pytest
from sync_calls import CALL, HEAD, OPEN, PIECES, STREAM, TOKENS, create, open_stream, started, wait_until

import gradient_async
from gradient_async import (
    AsyncGradient,
    ChatCompletionChunk,
    Choice,
    Client,
    ConfigurationError,
    FanOutError,
    Gradient,
    NotFoundError,
    PermissionDeniedError,
    Stream,
    StreamInterruptedError,
    StreamLimitError,
    StreamServerError,
    StreamTruncatedError,
    Timeout,
)
from gradient_async.client.completions import Completions as AsyncCompletions
from gradient_async.config import Limits
from gradient_async.sync import Completions
from gradient_async.sync import loop as module
from gradient_async.testing import (
    CLOSE,
    HOLD,
    Handler,
    chunk,
    completion,
    http_chunk,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
    sse,
)

ONE_BY_ONE = reply_sse(*PIECES, gap=0.005)
CUT = reply_sse(*PIECES[:3], done=False)


# Calls


def test_create_returns_the_completion() -> None:
    with started(reply_json(completion("Hello"))) as (server, client):
        done = create(client, temperature=0.5)
        assert "Hello" == done.choices[0].message.content
        assert 0.5 == server.requests[0].json["temperature"]


def test_agents_have_their_own_endpoint_and_parameters() -> None:
    with started(reply_json(completion("Hello")), STREAM, STREAM) as (server, client):
        agent = client.agents.chat.completions
        assert "Hello" == agent.create(messages=CALL["messages"], k=3).choices[0].message.content
        with agent.stream(messages=CALL["messages"]) as stream:
            assert TOKENS == list(stream.text)
        assert 6 == len(list(agent.create(messages=CALL["messages"], stream=True)))
        assert {"/api/v1/chat/completions"} == {request.path for request in server.requests}
        assert 1 == len(agent.fan_out(n=1, messages=CALL["messages"]).completion().choices)


def test_models_can_be_iterated_over() -> None:
    with started() as (_, client):
        models = client.models.list()
        assert [model.id for model in models] == [model.id for model in models.data]
        assert "simulated" in [model.id for model in client.models.list(extra_headers={"x-a": "b"})]


def test_a_list_of_models_refuses_options_of_a_wrong_type() -> None:
    with started() as (_, client), pytest.raises(TypeError, match="extra_headers"):
        client.models.list(extra_headers=["x"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Streams


def texts(chunks: list[ChatCompletionChunk]) -> list[str]:
    return [choice.delta.content for each in chunks for choice in each.choices if choice.delta.content]


@pytest.mark.parametrize("reply", [STREAM, ONE_BY_ONE], ids=["in one write", "one by one"])
def test_create_with_stream_is_an_iterator(reply: Handler) -> None:
    with started(reply) as (server, client):
        stream = open_stream(client)
        assert isinstance(stream, Stream)
        assert iter(stream) is stream
        assert TOKENS == texts(list(stream))
        assert stream.completed
        assert next(stream, None) is None
        assert "stream_options" not in server.requests[0].json
        server.wait_requests(1)


def test_an_answer_in_place_of_a_stream_is_a_stream() -> None:
    with started(reply_json(completion("Hello"))) as (_, client):
        stream = open_stream(client)
        assert ["Hello"] == texts(list(stream))
        assert stream.was_buffered


def test_names_of_other_clients() -> None:
    with started(STREAM) as (_, client):
        stream: Stream[ChatCompletionChunk] = open_stream(client)
        assert isinstance(stream, Stream)
        assert Stream is get_origin(Stream[ChatCompletionChunk])
        assert [False, True, True] == [
            stream.is_closed,
            stream.get_final_completion() == stream.current_completion_snapshot,
            stream.is_closed,
        ]
        client.keep_body = True
        assert client.with_options().keep_body


def test_every_view_of_a_stream() -> None:
    """Text, events, bytes, choices, the completion, and the facts."""
    with started(*[ONE_BY_ONE] * 6) as (server, client):

        def open_stream() -> Any:
            return client.chat.completions.stream(**CALL)

        with open_stream() as stream:
            assert TOKENS == list(stream.text)
            assert (200, True, True, False, 0, 1) == (
                stream.status_code, stream.completed, stream.saw_done, stream.was_buffered, stream.anomalies,
                stream.attempts,
            )  # fmt: skip
            assert "text/event-stream" in stream.headers["content-type"]
            assert 200 == stream.response.status_code
            assert stream.request_id is stream.rate_limits is None
            assert stream.timing.total > 0
        with open_stream() as stream:
            assert "".join(TOKENS) == "".join(
                event.delta for event in stream.events() if event.type == "content.delta"
            )
        with open_stream() as stream:
            data = b"".join(stream.raw)
            assert data.endswith(b"data: [DONE]\n\n")
            assert "".join(TOKENS) == stream.snapshot.choices[0].message.content
        with open_stream() as stream:
            choice = stream.choice(0)
            assert (0, "t0 ") == (choice.index, next(choice.text))
            assert TOKENS[1:] == texts(list(choice))
            assert [] == list(stream.choice(7))
        with open_stream() as stream:
            assert "".join(TOKENS) == stream.completion().choices[0].message.content
            assert stream.get_final_completion() == stream.until_done().snapshot
            assert stream.usage is None
            assert stream.id == stream.completion().id
        with open_stream() as stream:
            assert "<ChatCompletionStream open" in repr(stream)
            next(stream)
            with pytest.raises(TypeError, match=r"choose stream\.raw before"):
                assert stream.raw
        assert {"include_usage": True} == server.requests[0].json["stream_options"]


def test_views_share_one_cursor_and_the_snapshot_is_what_was_read() -> None:
    """Also where all chunks came in one read."""
    with started(STREAM) as (_, client), client.chat.completions.stream(**CALL) as stream:
        assert "t0 " == next(stream.text)
        assert ["t1 "] == texts([next(stream)])
        assert "t0 t1 " == stream.snapshot.choices[0].message.content
        assert "t2 " == next(event.delta for event in stream.events() if event.type == "content.delta")
        assert "t0 t1 t2 " == stream.snapshot.choices[0].message.content
        assert "".join(TOKENS) == stream.completion().choices[0].message.content


def test_large_reads_are_relayed_whole() -> None:
    """A read of many slices, of which the first ones alone are decoded in the loop's thread."""
    reply = reply_sse(*[chunk("x" * 1000) for _ in range(200)], chunk(finish_reason="stop"))
    with started(reply) as (_, client), client.chat.completions.stream(**CALL) as stream:
        assert 201 == b"".join(stream.raw).count(b'"choices"')
        assert 200_000 == len(stream.snapshot.choices[0].message.content or "")


def test_chunks_of_one_read_are_handed_over_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    original = module.LoopThread.call

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*arguments, **options)

    monkeypatch.setattr(module.LoopThread, "call", count)
    reply = reply_writes([reply_sse(*map(chunk, TOKENS * 20), chunk(finish_reason="stop")).data])
    with started(reply) as (_, client):
        assert 101 == len(list(open_stream(client)))
        assert calls < 20


def test_stream_is_not_taken_twice() -> None:
    with started() as (_, client), pytest.raises(TypeError, match="leave 'stream' out"):
        wrong: Any = {**CALL, "stream": True}
        client.chat.completions.stream(**wrong)


# Errors


def test_errors_keep_their_class_and_their_traceback() -> None:
    with started(reply_json({"message": "no"}, 404)) as (_, client):
        with pytest.raises(NotFoundError, match="no") as caught:
            create(client)
        lines = "".join(traceback.format_exception(caught.value))
        assert "test_sync.py" in lines
        assert "completions.py" in lines
        assert caught.value.__context__ is caught.value.__cause__ is None


def test_stream_errors_have_what_was_received() -> None:
    error = reply_sse(chunk("t0 "), {"error": {"message": "not today"}})
    with started(CUT, error) as (_, client):
        with pytest.raises(StreamTruncatedError) as cut:
            open_stream(client).completion()
        assert cut.value.partial is not None
        assert "t0 t1 t2 " == cut.value.partial.choices[0].message.content
        stream = open_stream(client)
        assert "t0 " == next(stream.text)
        for _ in range(2):
            with pytest.raises(StreamServerError, match="not today"):
                next(stream)


def test_a_completion_beyond_its_limit_ends_the_stream() -> None:
    """The cursor finds out, in the thread that reads; the connection is closed in the loop's."""
    reply = reply_writes([HEAD, *[http_chunk(sse(chunk("x" * 900), done=False))] * 5, HOLD])
    with started(reply, limits=Limits(completion_bytes=2000)) as (server, client):
        with pytest.raises(StreamLimitError, match="completion_bytes"):
            list(open_stream(client))
        server.wait_closed_connections()


def test_nothing_of_an_error_outlives_it() -> None:
    """No reference cycle: the stream, the error and the answer are freed without the collector."""

    class Held(dict[str, Any]):
        pass

    with started(reply_json({"message": "no"}, 404), CUT, ONE_BY_ONE, ONE_BY_ONE) as (server, client):
        gc.collect()
        gc.disable()
        try:
            held = Held(model="m", messages=CALL["messages"])
            request = weakref.ref(held)
            error: weakref.ref[Exception] | None = None
            try:
                create(client, extra_body=held)
            except NotFoundError as raised:
                error = weakref.ref(raised)
            del held
            assert request() is None
            assert error is not None
            assert error() is None
            stream = open_stream(client)
            kept = weakref.ref(stream._stream)
            try:
                stream.completion()
            except StreamTruncatedError as raised:
                error = weakref.ref(raised)
            del stream
            assert error() is None
            assert kept() is None
            for left in (2, 9):  # one is left in the middle
                stream = open_stream(client)
                kept = weakref.ref(stream._stream)
                for number, _text in enumerate(stream.text):
                    if number == left:
                        break
                stream.close()
                del stream
                assert kept() is None
            wait_until(lambda: not [each for each in gc.get_objects() if isinstance(each, module.Call)])
        finally:
            gc.enable()
        server.wait_closed_connections(1)


def test_keys_are_hidden_from_tracebacks_with_locals() -> None:
    with started(*[reply_json({"message": "no"}, 404)] * 4) as (_, client):
        headers = {"Authorization": "Bearer secret-key-77"}
        calls: list[Any] = [
            lambda: create(client, extra_headers={**headers}),
            lambda: client.chat.completions.stream(**CALL, extra_headers={**headers}).__enter__(),
            lambda: client.models.list(extra_headers={**headers}),
        ]
        for call in calls:
            with pytest.raises(NotFoundError) as caught:
                call()
            shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            frames = [frame for frame in shown.stack if "/gradient_async/" in frame.filename]
            assert frames
            assert "secret-key-77" not in str([frame.locals for frame in frames])
    with pytest.raises(ConfigurationError) as wrong:
        Gradient(model_access_key="bad\nsecret-key-77")
    shown = traceback.TracebackException.from_exception(wrong.value, capture_locals=True)
    frames = [frame for frame in shown.stack if "/gradient_async/" in frame.filename]
    assert "secret-key-77" not in str([frame.locals for frame in frames])


# Leaving


def test_closing_the_response_closes_the_stream() -> None:
    with started(OPEN) as (server, client):
        stream = open_stream(client)
        response = stream.response
        assert (200, False) == (response.status_code, response.is_closed)
        with pytest.raises(AttributeError, match=r"write close\(\)"):
            _ = response.aclose
        response.close()
        assert response.is_closed
        assert stream.is_closed
        server.wait_closed_connections()
        assert 200 == pickle.loads(pickle.dumps(response)).status_code  # noqa: S301  # its own


def test_leaving_the_block_closes_the_connection() -> None:
    with started(OPEN) as (server, client):
        with client.chat.completions.stream(**CALL) as stream:
            assert "t0 " == next(stream.text)
        server.wait_closed_connections()
        with pytest.raises(StreamInterruptedError, match="closed before its end"):
            next(stream)
        stream.close()


def test_an_abandoned_stream_warns_and_closes_its_connection() -> None:
    with started(OPEN, OPEN) as (server, client):
        stream = open_stream(client)
        next(stream)
        with pytest.warns(ResourceWarning, match=r"use 'with', or call close\(\)"):
            del stream
        server.wait_closed_connections()
        fan = client.chat.completions.fan_out(n=1, **CALL).__enter__()
        next(fan)
        with pytest.warns(ResourceWarning, match=r"use 'with', or call close\(\)"):
            del fan
        server.wait_closed_connections()


def test_closing_the_client_closes_its_streams() -> None:
    with started(OPEN) as (server, client):
        stream = open_stream(client)
        next(stream)
        copied = client.with_options(timeout=3)
        copied.close()
        assert 1 == server.open_connections
        client.close()
        assert client.is_closed()
        server.wait_closed_connections()
        with pytest.raises(StreamInterruptedError):
            list(stream)
        with pytest.raises(ConfigurationError, match="closed"):
            create(client)


def test_a_connection_is_used_again() -> None:
    with started() as (server, client):
        for _ in range(3):
            create(client)
            list(open_stream(client))
        assert 1 == server.connections


def test_a_client_of_one_line_keeps_its_connection_for_the_call() -> None:
    with serve() as server:
        assert create(Gradient(base_url=f"{server.url}/v1", api_key="k")).choices
        stream = open_stream(Gradient(base_url=f"{server.url}/v1", api_key="k"))
        assert list(stream)
        server.wait_closed_connections()


# Fan-out


def test_fan_out_is_read_like_a_stream() -> None:
    with started() as (server, client):
        with client.chat.completions.fan_out(n=3, **CALL) as fan:
            assert {0, 1, 2} == {choice.index for each in fan for choice in each.choices}
            assert [0, 1, 2] == [choice.index for choice in fan.completion().choices]
            assert 3 == fan.n == len(fan.results) == len(fan.request_ids)
            assert {} == fan.errors
            assert (None, []) == (fan.winner, fan.winners)
            assert fan.usage is not None
            assert "3 of 3" in repr(fan)
        assert 3 == len(
            client.chat.completions.fan_out(n=3, stream=False, **CALL).get_final_completion().choices
        )
        with client.chat.completions.fan_out(n=2, **CALL) as fan:
            assert list(fan.choice(1))
            assert "".join(fan.choice(0).text) == fan.completion().choices[0].message.content
        with client.chat.completions.fan_out(n=1, **CALL) as fan:
            assert "content.delta" in {event.type for event in fan.events()}
        server.wait_requests(9)


def test_fan_out_raises_and_collects_errors() -> None:
    refusal = reply_json({"message": "not this"}, 403)
    with started(refusal, refusal) as (_, client):
        with pytest.raises(FanOutError) as caught:
            client.chat.completions.fan_out(n=1, **CALL).completion()
        assert isinstance(caught.value.exceptions[0], PermissionDeniedError)
        fan = client.chat.completions.fan_out(n=1, on_error="collect", **CALL)
        assert [] == fan.completion().choices
        assert isinstance(fan.errors[0], PermissionDeniedError)
        with pytest.raises(TypeError, match="entered once only"):
            fan.__enter__()
        fan.close()


@pytest.mark.parametrize("judge", ["blocks", "is a coroutine function"])
def test_stop_when_may_call_the_client(judge: str) -> None:
    """It runs in a thread of its own; in the loop's, the call would wait for itself."""
    with started() as (_, client):

        def accept(choice: Choice) -> bool:
            return bool(create(client).choices and choice.index == 1)

        async def accept_later(choice: Choice) -> bool:
            return choice.index == 1

        stop_when = accept if judge == "blocks" else accept_later
        fan = client.chat.completions.fan_out(n=3, stop_when=stop_when, **CALL)
        assert [1] == [choice.index for choice in fan.completion().choices]
        assert 1 == fan.winner


def test_a_coroutine_whose_answer_is_not_needed_is_cancelled() -> None:
    cancelled: list[int] = []
    waiting = asyncio.Event()

    async def accept(choice: Choice) -> bool:
        if choice.index == 0:
            await waiting.wait()
            return True
        try:
            waiting.set()
            await asyncio.sleep(60)
        finally:
            cancelled.append(choice.index)
        return False

    with started() as (_, client):
        fan = client.chat.completions.fan_out(n=2, stop_when=accept, **CALL)
        assert [0] == [choice.index for choice in fan.completion().choices]
        assert ([1], [0]) == (cancelled, fan.winners)


@pytest.mark.parametrize("name", ["NotGiven", "Omit"])
def test_a_stop_when_that_is_not_given(name: str) -> None:
    nothing: Any = type(name, (), {})()
    with started() as (_, client):
        fan = client.chat.completions.fan_out(n=2, stop_when=nothing, **CALL)
        assert 2 == len(fan.completion().choices)


def test_an_error_of_stop_when_is_raised() -> None:
    def fails(choice: Choice) -> bool:
        raise LookupError("mine")

    with started() as (_, client), pytest.raises(LookupError, match="mine"):
        client.chat.completions.fan_out(n=1, stop_when=fails, **CALL).completion()


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, StopIteration, StopAsyncIteration],
)
@pytest.mark.parametrize("of", ["stop_when", "a coroutine", "an awaitable", "requests"])
def test_errors_with_a_meaning_of_their_own_reach_the_caller(
    error: type[BaseException], of: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """They come as they are, or as generators raise them, and leave neither a thread nor a line on stderr."""

    def fails(choice: Choice) -> bool:
        raise error

    async def fails_later(choice: Choice) -> bool:
        await asyncio.sleep(0)
        raise error

    def fails_soon(choice: Choice) -> Any:
        return fails_later(choice)

    def requests() -> Iterator[Any]:
        yield CALL
        raise error

    judges: dict[str, Any] = {
        "stop_when": fails,
        "a coroutine": fails_later,
        "an awaitable": fails_soon,
    }
    stops = error in {StopIteration, StopAsyncIteration}
    with started() as (_, client):
        before = threads_of_requests()
        if of in judges:
            with pytest.raises(RuntimeError if stops else error) as caught:
                # Of two awaitables, the second would not be awaited any more, of which Python warns.
                n = 1 if of == "an awaitable" else 2
                client.chat.completions.fan_out(n=n, stop_when=judges[of], **CALL).completion()
        else:
            with pytest.raises(RuntimeError if stops else error) as caught:
                list(client.chat.completions.map(requests()))
        if stops:
            assert isinstance(caught.value.__cause__, error)
        wait_until(lambda: threads_of_requests() <= before)
        gc.collect()
        create(client)
    assert "" == capfd.readouterr().err


def threads_of_requests() -> int:
    return [thread.name for thread in threading.enumerate()].count("gradient-async-requests")


# Options


def test_options_are_those_of_the_asynchronous_client() -> None:
    signature = inspect.signature(AsyncGradient.__init__)
    assert signature == inspect.signature(Gradient.__init__)
    assert inspect.signature(AsyncGradient.with_options) == inspect.signature(Gradient.with_options)
    assert "Self" == inspect.signature(Gradient.with_options).return_annotation
    assert Self is get_type_hints(Gradient.with_options)["return"]
    assert inspect.signature(AsyncCompletions.map) == inspect.signature(Completions.map)
    assert Client is Gradient
    assert "Gradient" in gradient_async.__all__


def test_settings_are_attributes_that_may_be_changed() -> None:
    client = Gradient(api_key="k", base_url="http://127.0.0.1:9/v1", timeout=3)
    assert (3, 2, "http://127.0.0.1:9/v1", "k") == (
        client.timeout.idle,
        client.max_retries,
        client.base_url,
        client.model_access_key,
    )
    client.max_retries = 0
    client.timeout = Timeout(idle=7)
    assert (0, 7) == (client.max_retries, client.timeout.idle)
    with pytest.raises(ConfigurationError, match="max_retries"):
        client.max_retries = -1
    assert "<Gradient http://127.0.0.1:9/v1>" == repr(client)
    with patch.object(client, "timeout", Timeout(idle=1)), patch.object(client, "api_key", "other"):
        assert (1, "other") == (client.timeout.idle, client.model_access_key)
    assert (7, "k") == (client.timeout.idle, client.model_access_key)
    copied = client.with_options(api_key="new")
    assert ("k", "new") == (client.api_key, copied.api_key)


def test_copies_share_connections_and_keep_their_class() -> None:
    class Mine(Gradient):
        name = ""

    with serve() as server, Mine(base_url=f"{server.url}/v1", api_key="k") as client:
        client.name = "mine"
        create(client)
        for copied in (client.with_options(timeout=3), client.copy(max_retries=0), copy.copy(client)):
            assert isinstance(copied, Mine)
            assert "mine" == copied.name
            assert create(copied).choices
            assert copied.chat is not client.chat
            copied.api_key = "other"
            copied.close()
        assert "k" == client.api_key
        assert create(client).choices
        assert 1 == server.connections


def test_resources_are_the_same_at_each_access_and_can_be_patched() -> None:
    client = Gradient(api_key="k")
    assert client.chat.completions is client.chat.completions
    assert client.agents.chat.completions is client.agents.chat.completions
    with patch.object(client.chat.completions, "create") as mocked:
        assert mocked.return_value is create(client)
    with patch.object(client, "chat") as chat:
        assert chat is client.chat
    assert isinstance(client.chat.completions, Completions)
    autospec = create_autospec(Gradient, instance=True)
    assert create(autospec) is autospec.chat.completions.create.return_value
    assert autospec.agents.chat is not autospec.models.list


def test_a_client_pickles_and_deep_copies_as_its_settings() -> None:
    client = Gradient(base_url="http://127.0.0.1:9/v1", api_key="k", max_retries=7)
    pickles = [pickle.dumps(client, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for copied in (copy.deepcopy(client), *map(pickle.loads, pickles)):
        assert 7 == copied.max_retries
        assert copied.chat is not client.chat
        assert copied.base_url == client.base_url


def test_a_session_is_refused() -> None:
    with pytest.raises(TypeError, match="runs its own"):
        Gradient(api_key="k", session=object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_repr_of_a_client_that_is_not_finished() -> None:
    assert "<Gradient unfinished>" == repr(object.__new__(Gradient))


def test_a_lost_connection_is_told() -> None:
    cut = reply_writes([HEAD, http_chunk(sse(chunk("t0 "), done=False)), CLOSE])
    with started(cut) as (_, client), pytest.raises(StreamInterruptedError):
        list(open_stream(client))
