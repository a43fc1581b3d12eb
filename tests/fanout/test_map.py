"""`map`: results and their order, how requests are pulled, and how leaving cancels them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest
from client_calls import Start, assert_equal_errors
from many_servers import Echo, ask_for, closed_within, prompts

from gradient_async import (
    NOT_GIVEN,
    AsyncGradient,
    ChatCompletion,
    ConfigurationError,
    FanOutError,
    GradientError,
    InvalidRequestError,
    MapFailure,
    MapResult,
    MapResults,
    MapSuccess,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    StreamInterruptedError,
)
from gradient_async.testing import HOLD, RESET, chunk, reply_json, reply_sse, reply_writes, serve

SLOW_DOWN = {"id": "too_many_requests", "message": "slow down"}


def text_of(result: MapResult) -> str | None:
    return result.unwrap().choices[0].message.content


async def all_of(results: MapResults) -> list[MapResult]:
    return [result async for result in results]


def named(requests: Iterable[Any]) -> Iterable[Any]:
    return {request["messages"][0]["content"]: request for request in requests}.values()


async def later(requests: Iterable[Any]) -> AsyncIterator[Any]:
    for request in requests:
        await asyncio.sleep(0)
        yield request


def ours() -> set[asyncio.Task[Any]]:
    """Return the tasks that are not the server's."""
    return {task for task in asyncio.all_tasks() if "Service._serve" not in repr(task.get_coro())}


class Counted:
    """An endless iterable of requests "0", "1", ... that counts how many were pulled."""

    def __init__(self) -> None:
        self.pulled = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            self.pulled += 1
            yield ask_for(str(self.pulled - 1))


# What comes out


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(list[Any], id="list"),
        pytest.param(tuple[Any, ...], id="tuple"),
        pytest.param(iter, id="iterator"),
        pytest.param(named, id="view"),
        pytest.param(later, id="async iterator"),
    ],
)
@pytest.mark.parametrize("ordered", [False, True], ids=["as they finish", "ordered"])
@pytest.mark.parametrize("stream", [False, True], ids=["awaited", "streamed"])
async def test_each_request_has_its_result(
    start: Start, form: Callable[[list[Any]], Any], ordered: bool, stream: bool
) -> None:
    echo = Echo()
    server, client = await start(handler=echo)
    requests = prompts(50)
    found = await all_of(
        client.chat.completions.map(form(requests), max_concurrency=7, ordered=ordered, stream=stream)
    )
    if ordered:
        assert list(range(50)) == [result.index for result in found]
    for result in found:
        assert str(result.index) == text_of(result)
        assert result.request == requests[result.index]
        assert result.key is None
        assert result.error is None
        completion = result.unwrap()
        assert completion.usage is not None
        assert 5 == completion.usage.total_tokens
    assert {str(number) for number in range(50)} == set(echo.prompts)
    assert 50 == len(server.requests) == len(found)
    assert echo.max_in_flight <= 7
    assert all(bool(request.json.get("stream")) == stream for request in server.requests)


async def test_a_request_may_have_a_key_of_the_caller(start: Start) -> None:
    """A key may be of any type, and several requests may have the same."""
    _, client = await start(handler=Echo())
    keys: list[Any] = ["a", ("b", 2), None, {"c": 3}, "a"]
    pairs = list(zip(keys, prompts(5), strict=True))
    found = await all_of(client.chat.completions.map(pairs, ordered=True))
    assert keys == [result.key for result in found]
    assert [*"01234"] == [text_of(result) for result in found]


async def test_results_come_as_they_finish_or_in_order(start: Start) -> None:
    _, client = await start(handler=Echo(seconds={"0": 0.2, "1": 0.1}))
    completions = client.chat.completions
    assert [2, 1, 0] == [result.index for result in await all_of(completions.map(prompts(3)))]
    assert [0, 1, 2] == [result.index for result in await all_of(completions.map(prompts(3), ordered=True))]


async def test_defaults_count_where_a_request_does_not_give_its_own(start: Start) -> None:
    server, client = await start(handler=Echo())
    requests: list[Any] = [
        {"messages": [{"role": "user", "content": "0"}]},
        ask_for("1", temperature=0.5, stream=True),
        ask_for("2", stream=True, stream_options=NOT_GIVEN),
        ask_for("3", stream=True, stream_options={"include_usage": False}),
    ]
    results = client.chat.completions.map(
        requests, model="d", temperature=1.5, extra_headers={"x-batch": "7"}, max_concurrency=1
    )
    assert ["0", "1", "2", "3"] == [text_of(result) for result in await all_of(results)]
    bodies = [request.json for request in server.requests]
    assert [("d", 1.5), ("m", 0.5), ("m", 1.5), ("m", 1.5)] == [
        (body["model"], body["temperature"]) for body in bodies
    ]
    assert [False, True, True, True] == [body.get("stream", False) for body in bodies]
    assert [None, True, True, False] == [
        body.get("stream_options", {}).get("include_usage") for body in bodies
    ]
    assert ["7"] * 4 == [request.headers["x-batch"] for request in server.requests]


async def test_agents_have_map_too(start: Start) -> None:
    server, client = await start(handler=Echo())
    messages = [{"role": "user", "content": "0"}]
    found = await all_of(client.agents.chat.completions.map([{"messages": messages}], stream=True))
    assert ["0"] == [text_of(result) for result in found]
    assert server.requests[0].headers["authorization"] == "Bearer agent-key-0123"


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_take_the_place_of_results(start: Start, stream: bool) -> None:
    broken = reply_sse(chunk("Hel"), done=False).steps[:-1]
    special: dict[str, Any] = {
        "1": reply_json({"error": {"message": "no credit", "code": "insufficient_quota"}}, 429),
        "3": reply_writes([*broken, RESET]) if stream else reply_writes([RESET]),
        "4": reply_json({"error": {"message": "no such model"}}, 404),
    }
    _, client = await start(handler=Echo(special))
    requests: list[Any] = [
        *prompts(5),
        {"model": "m", "prompt": "x"},
        17,
        ("k", "x"),
        ask_for("8", temperature=9),
        ("only", "three", {}),
        *prompts(1),
    ]
    found = await all_of(client.chat.completions.map(requests, ordered=True, stream=stream))
    assert list(range(11)) == [result.index for result in found]
    assert {0: "0", 2: "2", 10: "0"} == {
        result.index: text_of(result) for result in found if result.error is None
    }
    kinds = {result.index: type(result.error) for result in found if result.completion is None}
    # The frames of a traceback would hold the reply as long as the result is kept.
    assert all(result.error is None or result.error.__traceback__ is None for result in found)
    broke = kinds.pop(3)
    assert issubclass(broke, GradientError)
    assert {
        1: QuotaExceededError,
        4: NotFoundError,
        **dict.fromkeys((5, 6, 7, 8, 9), InvalidRequestError),
    } == kinds
    reported = [str(result.error) for result in found]
    assert "request 5: " in reported[5]
    assert "prompt" in reported[5]
    assert "request 6 is a int: expected its parameters as a dict" in reported[6]
    assert "request 7 is a str" in reported[7]
    assert "temperature" in reported[8]
    assert "request 9 is a tuple" in reported[9]
    asked: Any = found[6].request
    assert ("k", 17) == (found[7].key, asked)
    if stream:
        error = found[3].error
        assert isinstance(error, StreamInterruptedError)
        assert error.partial is not None
        assert "Hel" == error.partial.choices[0].message.content
    with pytest.raises(QuotaExceededError) as caught:
        found[1].unwrap()
    assert_equal_errors(found[1].error, caught.value)


def test_results_are_of_two_types() -> None:
    """Which `isinstance` and ``error is None`` tell apart; both are instances of `MapResult`."""
    both: Any = MapResult  # checkers take it for a union with parameters, which they do not allow there
    done = MapSuccess(index=0, request={}, key="a", completion=ChatCompletion(choices=[]))
    failed = MapFailure(index=1, request={}, error=GradientError("no"), resumed=True)
    assert isinstance(done, both)
    assert isinstance(failed, both)
    assert (done.completion, None, False) == (done.unwrap(), done.error, done.resumed)
    assert (None, None, True) == (failed.completion, failed.key, failed.resumed)
    with pytest.raises(GradientError, match="no"):
        failed.unwrap()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temprature": 1}, "unexpected keyword argument 'temprature'. Did you mean 'temperature'"),
        ({"max_concurency": 1}, "Did you mean 'max_concurrency'"),
        ({"hedge_after": 1}, "'hedge_after'"),
        ({"k": 1}, "'k'"),
        ({"journal": 5}, "int"),
    ],
)
async def test_unknown_options_are_refused_at_the_call(
    start: Start, options: dict[str, Any], says: str
) -> None:
    """No request is sent and none is pulled; a request's own parameters are its own affair."""
    server, client = await start(handler=Echo())
    with pytest.raises(TypeError, match=says):
        client.chat.completions.map(Counted(), **options)
    assert not server.requests
    (found,) = await all_of(
        client.chat.completions.map([ask_for("0", temprature=1)], timeout=5, extra_body={"x": 1})
    )
    assert isinstance(found.error, InvalidRequestError)
    agents: Any = client.agents.chat.completions
    agents.map([], k=3, extra_query={}, temperature=NOT_GIVEN, temprature=NOT_GIVEN)
    with pytest.raises(TypeError, match="'reasoning_effor'"):
        agents.map([], reasoning_effor="low")
    misspelt: dict[str, Any] = {"n": 2, "messages": [], "first_one": 1}
    with pytest.raises(TypeError, match="'first_one'"):
        agents.fan_out(**misspelt)


async def test_no_requests_have_no_results(start: Start) -> None:
    server, client = await start()
    nothing: list[Any] = []
    for requests in (nothing, iter(nothing), later(nothing)):
        results = client.chat.completions.map(requests)
        assert [] == await all_of(results)
        assert [] == await all_of(results)
    assert not server.requests


# How it is asked for


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        (17, "expected an iterable or an async iterable, not int"),
        (None, "not NoneType"),
        ("Hello", "expected several requests, not one str"),
        (b"Hello", "not one bytes"),
        (ask_for("0"), "not one dict"),
    ],
)
async def test_requests_of_a_wrong_type(start: Start, requests: Any, says: str) -> None:
    _, client = await start()
    with pytest.raises(TypeError, match=says):
        client.chat.completions.map(requests)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_concurrency": 1.5}, "max_concurrency"),
        ({"window": 0}, "window"),
        ({"on_error": "ignore"}, 'expected "collect" or "raise"'),
        ({"requests_per_minute": 0}, "requests_per_minute=0 is not a positive number"),
        ({"tokens_per_minute": float("inf")}, "tokens_per_minute=inf"),
        ({"tokens_per_minute": "many"}, "tokens_per_minute='many'"),
    ],
)
async def test_invalid_options_of_map(start: Start, options: dict[str, Any], says: str) -> None:
    _, client = await start()
    with pytest.raises(ConfigurationError, match=says):
        client.chat.completions.map([], **options)


# Pulling


async def test_nothing_is_pulled_before_it_is_read(start: Start) -> None:
    _, client = await start()
    requests = Counted()
    results = client.chat.completions.map(requests)
    await asyncio.sleep(0.02)
    assert 0 == requests.pulled
    await results.aclose()


@pytest.mark.parametrize("ordered", [False, True], ids=["as they finish", "ordered"])
@pytest.mark.parametrize(("options", "window"), [({}, 12), ({"window": 5}, 5), ({"window": 1}, 1)])
async def test_no_more_is_pulled_than_the_window_holds(
    start: Start, ordered: bool, options: dict[str, Any], window: int
) -> None:
    """A slow reader holds up the pulling of requests."""
    echo = Echo(seconds={"3": 0.1})  # holds up the results behind it, if they are ordered
    _, client = await start(handler=echo)
    requests = Counted()
    results = client.chat.completions.map(requests, max_concurrency=3, ordered=ordered, **options)
    taken = 0
    async for _ in results:
        taken += 1
        for _ in range(3):
            assert requests.pulled <= taken + window
            await asyncio.sleep(0.003)
        assert requests.pulled - taken <= window
        if taken == 30:
            break
    assert echo.max_in_flight <= 3
    assert requests.pulled >= 30 + window - 1
    await results.aclose()


@pytest.mark.parametrize("form", [iter, later], ids=["sync", "async"])
@pytest.mark.parametrize("ordered", [False, True], ids=["as they finish", "ordered"])
async def test_an_error_of_the_iterable_is_raised_after_all_results(
    start: Start, form: Callable[[Any], Any], ordered: bool
) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from prompts(5)
        raise LookupError("the table is gone")

    _, client = await start(handler=Echo(pause=0.02))
    results = client.chat.completions.map(form(broken()), ordered=ordered)
    seen: set[int] = set()
    with pytest.raises(LookupError, match="the table is gone"):
        async for result in results:
            seen.add(result.index)
    assert {0, 1, 2, 3, 4} == seen
    assert [] == await all_of(results)


async def test_an_iterable_that_waits_holds_up_no_result(start: Start) -> None:
    """Results can be read while the iterable waits for its next request."""
    _, client = await start(handler=Echo())
    gate = asyncio.Event()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield ask_for("0")
        await gate.wait()
        yield ask_for("1")

    async with client.chat.completions.map(requests(), max_concurrency=8) as results:
        assert "0" == text_of(await anext(results))
        gate.set()
        assert ["1"] == [text_of(result) for result in await all_of(results)]


async def test_several_tasks_may_read(start: Start) -> None:
    _, client = await start(handler=Echo(pause=0.001))
    results = client.chat.completions.map(prompts(60), max_concurrency=4, window=4)

    async def read() -> list[MapResult]:
        found: list[MapResult] = []
        async for result in results:
            found.append(result)
            await asyncio.sleep(0.001)
        return found

    parts = await asyncio.gather(*(read() for _ in range(3)))
    assert all(parts)
    assert list(range(60)) == sorted(result.index for part in parts for result in part)


# Ending


@pytest.mark.usefixtures("virtual_time")
async def test_the_first_error_may_end_everything(start: Start) -> None:
    """Results before the error can be read. The server sees requests in flight cancelled."""
    special = {"2": reply_json(SLOW_DOWN, 403)}
    seconds = {"2": 0.05, "3": 30.0, "4": 30.0}
    server, client = await start(handler=Echo(special, seconds=seconds, pause=0.01))
    results = client.chat.completions.map(Counted(), max_concurrency=5, on_error="raise", window=5)
    await asyncio.sleep(0)
    began = time.monotonic()
    assert {0, 1} == {(await anext(results)).index, (await anext(results)).index}
    with pytest.raises(FanOutError, match="a request failed, and the others were given up: ") as caught:
        while True:
            assert (await anext(results)).index > 4
    error = caught.value
    assert [2] == list(error.errors)
    assert isinstance(error.errors[2], PermissionDeniedError)
    assert (error.errors[2],) == error.exceptions
    assert error.__cause__ is error.errors[2]
    assert error.partial is None
    given_up = [r for r in server.requests if r.json["messages"][0]["content"] in {"3", "4"}]
    assert 2 == len(given_up)
    await closed_within(given_up, began + 0.05)
    assert [] == await all_of(results)


async def test_errors_that_come_together_are_raised_together(start: Start) -> None:
    _, client = await start()
    requests = [{"model": "m", "prompt": "x"}] * 3
    with pytest.raises(FanOutError) as caught:
        await all_of(client.chat.completions.map(requests, on_error="raise"))
    assert {InvalidRequestError} == {type(error) for error in caught.value.errors.values()}
    assert 1 <= len(caught.value.errors) <= 3


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize("ordered", [False, True], ids=["as they finish", "ordered"])
@pytest.mark.parametrize("way", ["break", "aclose", "close", "with", "cancel", "error", "drop"])
async def test_leaving_map_cancels_requests_in_flight(start: Start, way: str, ordered: bool) -> None:
    hold = {str(number): reply_writes([HOLD]) for number in range(1, 9)}
    server, client = await start(handler=Echo(hold))
    before = ours()
    requests = Counted()

    async def read() -> None:
        results = client.chat.completions.map(requests, max_concurrency=8, ordered=ordered)
        match way:
            case "break" | "aclose" | "close":
                async for _ in results:
                    await server.wait_requests(9)
                    break
                if way != "break":
                    await getattr(results, way)()
                    assert ours() == before | {task}
            case "with":
                async with results:
                    await anext(results)
                    await server.wait_requests(9)
            case "drop":
                await anext(results)
                await server.wait_requests(9)
                del results
            case "error":
                with pytest.raises(ZeroDivisionError):
                    async for _ in results:
                        await server.wait_requests(9)
                        raise ZeroDivisionError
            case _:
                async for _ in results:
                    await server.wait_requests(9)

    task = asyncio.create_task(read())
    await server.wait_requests(9)
    await asyncio.sleep(0.01)
    since = time.monotonic()
    if way == "cancel":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await task
    held = [request for request in server.requests if request.json["messages"][0]["content"] != "0"]
    await closed_within(held, since)
    pulled = requests.pulled
    await asyncio.sleep(0.02)
    assert requests.pulled == pulled
    assert ours() == before


async def test_no_results_after_closing(start: Start) -> None:
    _, client = await start(handler=Echo())
    results = client.chat.completions.map(Counted(), max_concurrency=2)
    await anext(results)
    await asyncio.sleep(0.05)  # other results are ready and not taken
    await results.aclose()
    assert [] == await all_of(results)
    await results.aclose()
    unread = client.chat.completions.map(Counted())
    await unread.aclose()
    assert [] == await all_of(unread)


async def test_a_waiting_reader_ends_when_another_task_closes(start: Start) -> None:
    _, client = await start(handler=Echo(pause=30))
    results = client.chat.completions.map(prompts(3))
    reader = asyncio.create_task(all_of(results))
    await asyncio.sleep(0.05)
    await results.aclose()
    assert [] == await reader


@pytest.mark.usefixtures("virtual_time")
async def test_results_dropped_in_another_thread(start: Start) -> None:
    hold = {"1": reply_writes([HOLD])}
    server, client = await start(handler=Echo(hold))
    before = ours()
    kept = [client.chat.completions.map(prompts(2), max_concurrency=2)]
    await anext(kept[0])
    await server.wait_requests(2)
    since = time.monotonic()
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    await closed_within([server.requests[1]], since)
    assert ours() == before


def test_results_dropped_after_their_loop_has_closed() -> None:
    """There is nothing to close any more, and no warning."""

    async def begin() -> MapResults:
        async with (
            serve(handler=Echo()) as server,
            AsyncGradient(inference_endpoint=server.url, model_access_key="k") as client,
        ):
            results = client.chat.completions.map(Counted(), max_concurrency=2)
            await anext(results)
            return results

    kept = [asyncio.run(begin())]

    async def read() -> None:
        await anext(kept[0])

    with pytest.raises(GradientError, match="belong to another event loop"):
        asyncio.run(read())
    kept.clear()
    gc.collect()


def test_results_whose_init_failed_are_dropped_without_warning() -> None:
    broken = [object.__new__(MapResults)]
    broken.clear()


async def test_a_worker_that_other_code_cancels_is_an_error(start: Start) -> None:
    """An ordinary end would hide that its result is lost."""
    server, client = await start(handler=Echo(seconds={"1": 30}))
    before = ours()
    results = client.chat.completions.map(prompts(3), max_concurrency=3)
    assert {0, 2} == {(await anext(results)).index, (await anext(results)).index}
    await server.wait_requests(3)
    for task in ours() - before:
        if "_work" in repr(task.get_coro()):
            task.cancel()
    with pytest.raises(GradientError, match="cancelled, and not by the reader"):
        await anext(results)


async def test_memory_stays_flat(start: Start) -> None:
    """Requests and results that the reader has dropped are not kept."""
    _, client = await start(handler=Echo())
    refs: list[weakref.ref[Any]] = []

    class Params(dict[str, Any]):
        """A dict that weak references can refer to."""

    def requests() -> Iterator[dict[str, Any]]:
        for number in range(300):
            params = Params(ask_for(str(number)))
            refs.append(weakref.ref(params))
            yield params

    async for _ in client.chat.completions.map(requests(), max_concurrency=5, window=10):
        gc.collect(0)
        assert sum(ref() is not None for ref in refs) <= 30
