"""`run`: the turns, their events, what is refused, and reading."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import gc
import json
import pickle
import weakref
from typing import Any, cast
from unittest.mock import patch

import pytest
from client_calls import CALL, MESSAGES, Start, create_completion
from runs import PARIS, ROME, add, answers, begin, calls, events_of, get_weather, shown

from gradient_async import (
    NOT_GIVEN,
    CallInfo,
    ConfigurationError,
    GradientError,
    Hook,
    InvalidRequestError,
    Pace,
    StreamTimeoutError,
    Timeout,
    ToolFinishedEvent,
    ToolRun,
    ToolRunEvent,
    ToolStartedEvent,
    tool,
)
from gradient_async.client.turn import TurnTools
from gradient_async.testing import (
    HOLD,
    Connection,
    Request,
    chunk,
    reply_json,
    reply_sse,
    reply_writes,
)


def kinds(events: list[ToolRunEvent]) -> list[str]:
    return [event.type for event in events if event.type != "chunk"]


@pytest.fixture(params=[True, False], ids=["streamed", "awaited"])
def stream(request: pytest.FixtureRequest) -> bool:
    """Whether replies are streamed."""
    return bool(request.param)


class TestTurns:
    """What is sent, and what comes."""

    async def test_a_run(self, start: Start, stream: bool) -> None:
        server, client = await start(calls(PARIS, ("add", '{"a":2}'), stream=stream), answers(stream=stream))
        async with begin(client, stream=stream, temperature=0.5) as run:
            events = [event async for event in run]
            done = await run.completion()
        assert "Done." == done.choices[0].message.content
        assert run.turns == [run.turns[0], done] and done is run.turns[1]
        first, second = (request.json for request in server.requests)
        assert [tool(get_weather).to_dict(), tool(add).to_dict()] == first["tools"] == second["tools"]
        assert MESSAGES == first["messages"]
        assert second["messages"][2:] == [
            {"role": "tool", "tool_call_id": "a", "content": "Paris: 20 C"},
            {"role": "tool", "tool_call_id": "b", "content": "3"},
        ]
        assert ["a", "b"] == [call["id"] for call in second["messages"][1]["tool_calls"]]
        assert {first["temperature"], second["temperature"]} == {0.5}
        assert [stream or None, stream or None] == [first.get("stream"), second.get("stream")]
        assert [["a", "b"], ("a", "Paris: 20 C"), ("b", "3"), "Done."] == shown(run.messages)
        assert 10 == (run.usage.total_tokens if run.usage else None)
        assert {0, 1} == {event.turn for event in events}

    async def test_nothing_is_sent_before_the_first_read(self, start: Start) -> None:
        server, client = await start(answers())
        async with begin(client) as run:
            await asyncio.sleep(0.01)
            assert ([], [], MESSAGES, None) == (server.requests, run.turns, run.messages, run.usage)
            await anext(run)
            assert 1 == len(server.requests)
        del run
        begin(client)  # and nothing is left of a run that was never read
        run = begin(client)
        await run.close()
        with pytest.raises(StopAsyncIteration):
            await anext(run)
        assert 1 == len(server.requests)

    async def test_agents(self, start: Start, stream: bool) -> None:
        server, client = await start(calls(PARIS, stream=stream), answers(stream=stream))
        run = client.agents.chat.completions.run(
            messages=MESSAGES, tools=[get_weather], stream=stream, include_retrieval_info=True
        )
        assert "Done." == (await run.completion()).choices[0].message.content
        assert {"/api/v1/chat/completions"} == {request.path for request in server.requests}
        assert all(request.json["include_retrieval_info"] for request in server.requests)

    async def test_functions_in_tools_of_every_method(self, start: Start) -> None:
        """A plain function stands for `tool(function)`, and a mapping goes as it is."""
        mapping: Any = {"type": "function", "function": {"name": "mapped", "parameters": {}}}

        async def handler(request: Request, connection: Connection) -> None:
            await answers(stream=request.json.get("stream", False))(request, connection)

        server, client = await start(handler=handler)
        options: dict[str, Any] = CALL | {"tools": [add, mapping]}
        of_agents = {name: options[name] for name in ("messages", "tools")}
        resources: list[Any] = [client.chat.completions, client.agents.chat.completions]
        for methods, given in zip(resources, (options, of_agents), strict=True):
            await methods.create(**given)
            await (await methods.create(**given, stream=True)).completion()
            async with methods.stream(**given) as stream:
                await stream.completion()
            await methods.parse(**given)
            await methods.fan_out(n=1, **given).completion()
            async for result in methods.map([given]):
                result.unwrap()
            await methods.run(**given).completion()
            await methods.with_raw_response.create(**given)
        expected = [tool(add).to_dict(), mapping]
        assert [expected] * 16 == [request.json["tools"] for request in server.requests]

    async def test_only_what_callers_have(self, start: Start) -> None:
        """Requests are made by the public methods, so that a patched method makes them."""
        _, client = await start()
        _, other = await start(answers(stream=False))
        whole = await create_completion(other)
        with patch.object(client.chat.completions, "create", return_value=whole) as create:
            assert await begin(client, stream=False).completion() is whole
        assert 1 == create.call_count

    async def test_messages_of_the_caller_are_not_touched(self, start: Start) -> None:
        _, client = await start(*[calls(PARIS), answers()] * 2)
        messages = list(MESSAGES)
        await begin(client, messages=messages).completion()
        assert MESSAGES == messages
        run = begin(client, messages=iter(messages))
        await run.completion()
        assert 4 == len(run.messages)

    async def test_headers_are_hidden_in_each_request(self, start: Start) -> None:
        server, client = await start(calls(PARIS), answers())
        await begin(client, extra_headers={"X-Api-Key": "secret"}).completion()
        assert ["secret", "secret"] == [request.headers["X-Api-Key"] for request in server.requests]

    async def test_retries_and_timeouts_are_those_of_each_request(self, start: Start) -> None:
        busy = reply_json({"message": "no room"}, 503, {"retry-after": "0.01"})
        server, client = await start(busy, calls(PARIS), busy, answers(), max_retries=1)
        run = begin(client)
        await run.completion()
        assert ([2, 2], 4) == ([each.attempts for each in run.turns], len(server.requests))

        async def slow(city: str) -> str:
            await asyncio.sleep(0.6)
            return city

        _, client = await start(
            calls(("slow", '{"city":"x"}')), reply_writes([*reply_sse(chunk("t")).steps[:2], HOLD])
        )
        run = begin(client, slow, timeout=Timeout(total=0.5))
        with pytest.raises(StreamTimeoutError) as raised:
            await run.completion()  # the tool takes longer, and its time does not count
        assert ("total", 1) == (raised.value.phase, len(run.turns))

    async def test_hooks_and_pace_are_those_of_each_request(self, start: Start) -> None:
        told: list[Any] = []

        class Note(Hook):
            def on_end(self, call: CallInfo) -> None:
                told.append(call.outcome)

        pace = Pace(requests_per_minute=600)
        _, client = await start(calls(PARIS), answers(), hooks=[Note()], pace=pace)
        with patch.object(Pace, "take", autospec=True, side_effect=Pace.take) as take:
            await begin(client).completion()
        assert (["completed", "completed"], 2) == (told, take.call_count)

    async def test_options_that_are_not_given(self, start: Start) -> None:
        _, client = await start(answers())
        options = dict.fromkeys(("max_turns", "stop_when", "tool_timeout", "response_format", "n"), NOT_GIVEN)
        assert "Done." == (await begin(client, **options).completion()).choices[0].message.content


class TestEvents:
    """The events of every turn, in order, and those of tools."""

    async def test_in_order(self, start: Start, stream: bool) -> None:
        _, client = await start(calls(PARIS, ROME, stream=stream), answers(stream=stream))
        run = begin(client, stream=stream)
        events = await events_of(run)
        call = ["tool_calls.start", "tool_calls.function.arguments.delta"]
        assert kinds(events) == [
            *call * 2, *["tool_calls.function.arguments.done"] * 2, "finish", "usage",
            "tool.started", "tool.started", "tool.finished", "tool.finished",
            "content.delta", "content.done", "finish", "usage",
        ]  # fmt: skip
        turns = [event.turn for event in events]
        assert turns == sorted(turns) and {0, 1} == set(turns)
        assert "content.delta" == next(event.type for event in events if event.turn and event.type != "chunk")
        for event in events:
            if event.type == "chunk":
                assert event.snapshot == event.snapshot
                assert run.turns[event.turn].id == event.chunk.id

    async def test_awaited_texts_are_one_delta(self, start: Start) -> None:
        _, client = await start(answers("one two three", stream=False))
        events = await events_of(begin(client, stream=False))
        assert ["one two three"] == [event.delta for event in events if event.type == "content.delta"]

    async def test_the_events_of_a_stream_are_of_turn_0(self, start: Start) -> None:
        _, client = await start(answers())
        async with client.chat.completions.stream(**CALL) as plain:
            assert {0} == {event.turn async for event in plain.events()}

    async def test_events_of_tools(self, start: Start) -> None:
        _, client = await start(calls(PARIS, ("add", "[]"), ("none", "{}")), answers())
        run = begin(client)
        events = await events_of(run)
        given = (run.turns[0].choices[0].message.tool_calls or [])[0]
        started = [event for event in events if isinstance(event, ToolStartedEvent)]
        finished = {event.index: event for event in events if isinstance(event, ToolFinishedEvent)}
        assert [0, 1, 2] == [event.index for event in started]
        assert ["a", "b", "c"] == [event.id for event in started]
        assert ["get_weather", "add", "none"] == [event.name for event in started]
        assert [{"city": "Paris", "unit": "C"}, "[]", "{}"] == [event.arguments for event in started]
        assert given == started[0].call == finished[0].call
        assert {(0, 0)} == {(each.turn, each.choice) for each in started} | {
            (each.turn, each.choice) for each in finished.values()
        }
        first, second, third = (finished[index] for index in range(3))
        assert ("Paris: 20 C", "Paris: 20 C", None) == (first.result, first.content, first.error)
        assert 0 <= first.seconds < 5
        assert (None, second.content) == (second.result, str(second.error))
        assert second.content.startswith("Invalid arguments for add: Expected 'object', got 'array'")
        assert "There is no tool none. Tools: get_weather, add" == third.content == str(third.error)
        assert ["get_weather", "a", {"city": "Paris", "unit": "C"}] == [first.name, first.id, first.arguments]

    async def test_as_plain_data(self, start: Start) -> None:
        """The objects that a function returned or raised are left out."""
        _, client = await start(calls(PARIS, ("add", "x")), answers())
        events = await events_of(begin(client))
        for event in events:
            if isinstance(event, ToolFinishedEvent):
                data = json.loads(event.to_json())
                assert (event.content, {"result", "error", "@result", "@error"} & data.keys()) == (
                    data["content"],
                    set(),
                )
                assert pickle.loads(pickle.dumps(event)).content == event.content  # noqa: S301  # our own

    async def test_arguments_as_plain_data(self, start: Start) -> None:
        """Also those that have no JSON form, such as a default of any class, and models of pydantic."""

        class Model:
            def model_dump(self, mode: str) -> dict[str, str]:
                return {"mode": mode}

        def f(a: int, when: dt.date, b: int = cast("Any", Model), c: int = cast("Any", Model())) -> None: ...

        _, client = await start(calls(("f", '{"a":1,"when":"2026-01-02"}')), answers())
        events = await events_of(begin(client, f))
        found = [json.loads(event.to_json()) for event in events if event.type.startswith("tool.")]
        expected = {"a": 1, "when": "2026-01-02", "b": repr(Model), "c": {"mode": "json"}}
        assert [expected, expected] == [data["arguments"] for data in found]

    async def test_as_they_finish(self, start: Start) -> None:
        """And the results are in the order of the calls."""
        first = asyncio.Event()

        async def wait(n: int) -> int:
            await (asyncio.sleep(0) if n else first.wait())
            first.set()
            return n

        _, client = await start(calls(("wait", '{"n":0}'), ("wait", '{"n":1}')), answers())
        run = begin(client, wait)
        events = await events_of(run)
        assert [1, 0] == [event.index for event in events if event.type == "tool.finished"]
        assert [["a", "b"], ("a", "0"), ("b", "1"), "Done."] == shown(run.messages)

    async def test_tools_begin_when_the_last_started_event_was_taken(self, start: Start) -> None:
        begun: list[int] = []

        async def note(n: int) -> None:
            begun.append(n)

        server, client = await start(calls(("note", '{"n":0}'), ("note", '{"n":1}')), answers())
        async with begin(client, note) as run:
            async for event in run:
                if event.type == "tool.started":
                    await asyncio.sleep(0.01)  # asks somebody
                    assert [] == begun
                    if event.index == 1:
                        break
        assert ([], 1, MESSAGES) == (begun, len(server.requests), run.messages)
        assert 1 == len(run.turns)
        with pytest.raises(StopAsyncIteration):
            await anext(run)
        with pytest.raises(GradientError, match="no answer: it was left before its end"):
            await run.completion()


class TestRefused:
    """At the call, before anything is sent."""

    @pytest.mark.parametrize(
        ("options", "kind", "param"),
        [
            ({"n": 2}, InvalidRequestError, "n"),
            ({"tools": []}, InvalidRequestError, "tools"),
            ({"tools": None}, InvalidRequestError, "tools"),
            ({"tools": "add"}, InvalidRequestError, "tools"),
            ({"tools": [add, tool(add)]}, InvalidRequestError, "tools"),
            ({"tools": [print]}, TypeError, None),
            ({"extra_body": {"n": 2}}, InvalidRequestError, "n"),
            ({"extra_body": {"messages": []}}, InvalidRequestError, "messages"),
            ({"response_format": object}, InvalidRequestError, "response_format"),
            ({"max_turns": 0}, ConfigurationError, None),
            ({"tool_concurrency": 0}, ConfigurationError, None),
            ({"tool_timeout": 0}, ConfigurationError, None),
            ({"on_tool_error": "tel"}, ConfigurationError, None),
            ({"stop_when": 5}, TypeError, None),
            ({"temprature": 1}, TypeError, None),
            ({"messages": NOT_GIVEN}, TypeError, None),
            ({"messages": None}, InvalidRequestError, "messages"),
            ({"messages": "hi"}, InvalidRequestError, "messages"),
        ],
    )
    async def test_options(
        self, start: Start, options: Any, kind: type[Exception], param: str | None
    ) -> None:
        server, client = await start(answers())
        with pytest.raises(kind) as raised:
            begin(client, **options)
        assert (param, []) == (getattr(raised.value, "param", None), server.requests)

    async def test_what_the_request_refuses(self, start: Start) -> None:
        """At the first read."""
        server, client = await start(answers())
        run = begin(client, n=1, temperature=9)
        with pytest.raises(InvalidRequestError, match="temperature"):
            await run.completion()
        assert [] == server.requests
        create: Any = client.chat.completions.run
        with pytest.raises(TypeError, match="tools"):
            create(**CALL)


class TestReading:
    """One task reads a run; it may be left at any moment."""

    async def test_two_consumers_at_once(self, start: Start) -> None:
        begun, release = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            begun.set()
            await release.wait()

        _, client = await start(calls(("wait", "")), answers())
        run = begin(client, wait)
        reading = asyncio.create_task(run.completion())
        await begun.wait()
        for other in (run.__anext__, run.completion, run.aclose):
            with pytest.raises(RuntimeError, match="another task is reading this run"):
                await other()
        release.set()
        assert "Done." == (await reading).choices[0].message.content

    async def test_completion_drives_what_is_left(self, start: Start) -> None:
        _, client = await start(calls(PARIS), answers())
        async with begin(client) as run:
            async for event in run:
                if event.type == "tool.started":
                    break
            assert "Done." == (await run.completion()).choices[0].message.content

    async def test_context_variables(self, start: Start) -> None:
        """Those of the reader, in functions of both kinds."""
        variable = contextvars.ContextVar("variable", default="")

        async def in_loop() -> str:
            return variable.get()

        def in_thread() -> str:
            return variable.get()

        _, client = await start(calls(("in_loop", ""), ("in_thread", "")), answers())
        variable.set("set")
        run = begin(client, in_loop, in_thread)
        await run.completion()
        assert [("a", "set"), ("b", "set")] == shown(run.messages)[1:3]

    @pytest.mark.parametrize("where", ["content.delta", "tool.started", "tool.finished"])
    async def test_a_run_that_is_dropped(self, start: Start, where: str) -> None:
        """It warns, and the loop closes it: without the collector, and with its tools."""
        cancelled: list[bool] = []

        async def hang() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)

        server, client = await start(
            reply_sse(*_chunks(calls(("hang", ""), ("add", '{"a":1}'), content="x")), end_delay=0)
        )
        tasks = asyncio.all_tasks()
        gc.disable()
        try:
            run = begin(client, hang, add)
            async for event in run:
                if event.type == where:
                    break
            with pytest.warns(
                ResourceWarning, match="<ToolRun open turns=.> was dropped before its end; use 'async"
            ):
                del run
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert [True] * (where == "tool.finished") == cancelled
            # The server is in this loop, too.
            left = {task.get_name() for task in asyncio.all_tasks() - tasks - set(server._service.tasks)}
            assert set() == left
        finally:
            gc.enable()

    async def test_nothing_is_left_of_a_run(self, start: Start) -> None:
        """No reference cycle, however it ends."""

        async def fail() -> None:
            await asyncio.sleep(0.005)
            raise ValueError("no")

        async def end(run: ToolRun[Any]) -> None:
            try:
                await run.completion()
            except (ValueError, GradientError):
                pass

        async def leave_early(run: ToolRun[Any]) -> None:
            """Leave before the failure of another tool is raised."""
            async with run:
                async for event in run:
                    if event.type == "tool.finished":
                        await asyncio.sleep(0.02)
                        break

        _, client = await start(
            calls(PARIS), answers(),
            calls(("fail", "")), answers(),
            calls(("fail", "")),
            calls(("x", "")), calls(PARIS),
            calls(PARIS, ("fail", "")),
        )  # fmt: skip
        options: list[dict[str, Any]] = [{}, {}, {"on_tool_error": "raise"}, {"max_turns": 2}]

        def count() -> int:
            return sum(type(each) is TurnTools for each in gc.get_objects())

        gc.collect()
        gc.disable()
        before = count()  # an error that another test has kept may refer to some
        try:
            for each in options:
                run = begin(client, get_weather, fail, **each)
                held = weakref.ref(run), weakref.ref(run.state)
                await end(run)
                del run
                assert (None, None) == (held[0](), held[1]())
            await leave_early(begin(client, get_weather, fail, on_tool_error="raise"))
            assert before == count()
        finally:
            gc.enable()


def _chunks(reply: Any) -> list[Any]:
    """Return the events of a scripted reply."""
    lines = reply.data.partition(b"\r\n\r\n")[2].split(b"data: ")[1:-1]
    return [json.loads(line.partition(b"\n")[0]) for line in lines]
