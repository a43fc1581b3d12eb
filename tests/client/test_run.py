"""`run`: the turns, their events, their end, and the state at any time."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import json
import pickle
import weakref
from typing import Any
from unittest.mock import patch

import pytest
from client_calls import CALL, MESSAGES, Start, create_completion
from msgspec import Struct
from runs import PARIS, ROME, USAGE, add, answers, begin, calls, events_of, get_weather, shown

from gradient_async import (
    NOT_GIVEN,
    Answer,
    APIStatusError,
    CallInfo,
    ConfigurationError,
    ContentFilterFinishReasonError,
    GradientError,
    Hook,
    InvalidRequestError,
    LengthFinishReasonError,
    MaxTurnsError,
    OutputDecodeError,
    OutputError,
    OutputValidationError,
    Pace,
    ParsedChatCompletion,
    StreamInterruptedError,
    StreamTimeoutError,
    Timeout,
    ToolFinishedEvent,
    ToolRun,
    ToolRunEvent,
    ToolStartedEvent,
    tool,
)
from gradient_async.output import answer_of
from gradient_async.testing import (
    HOLD,
    RESET,
    Handler,
    chunk,
    completion,
    reply_json,
    reply_sse,
    reply_writes,
)

WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}


class Count(Struct):
    n: int


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
            await asyncio.sleep(0.2)
            return city

        _, client = await start(
            calls(("slow", '{"city":"x"}')), reply_writes([*reply_sse(chunk("t")).steps[:2], HOLD])
        )
        run = begin(client, slow, timeout=Timeout(total=0.15))
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


class TestEnd:
    """How a run ends."""

    async def test_no_calls(self, start: Start, stream: bool) -> None:
        _, client = await start(answers(finish_reason="tool_calls", stream=stream))
        run = begin(client, stream=stream)
        assert await run.completion() is run.turns[0] is await run.completion()
        assert ["Done."] == shown(run.messages)
        with pytest.raises(StopAsyncIteration):
            await anext(run)

    @pytest.mark.parametrize("waits", [False, True])
    async def test_stop_when(self, start: Start, waits: bool) -> None:
        """It is asked after each turn's results are in, and awaited if need be."""
        asked: list[Any] = []

        def enough(run: ToolRun[Any]) -> Any:
            asked.append((run, len(run.turns), shown(run.messages)[-1]))
            answer = len(run.turns) == 2

            async def later() -> bool:
                return answer

            return later() if waits else answer

        server, client = await start(*[calls(PARIS)] * 3)
        run = begin(client, stop_when=enough)
        done = await run.completion()
        assert [(run, 1, ("a", "Paris: 20 C")), (run, 2, ("a", "Paris: 20 C"))] == asked
        assert (2, 5, run.turns[1]) == (len(server.requests), len(run.messages), done)

    async def test_what_stop_when_raises(self, start: Start) -> None:
        _, client = await start(calls(PARIS))

        def fail(run: ToolRun[Any]) -> bool:
            return bool(1 // (len(run.turns) - 1))

        run = begin(client, stop_when=fail)
        with pytest.raises(ZeroDivisionError) as raised:
            await run.completion()
        assert ["turn 0 of the run"] == raised.value.__notes__
        assert 3 == len(run.messages)

    async def test_max_turns(self, start: Start, stream: bool) -> None:
        ran: list[int] = []

        def note(n: int) -> None:
            ran.append(n)

        server, client = await start(*[calls(("note", '{"n":0}'), stream=stream)] * 3)
        run = begin(client, note, stream=stream, max_turns=2)
        with pytest.raises(MaxTurnsError, match="max_turns=2") as raised:
            await events_of(run)
        error = raised.value
        assert ([0], 2) == (ran, len(server.requests))
        assert (error.turns, error.messages, error.usage) == (run.turns, run.messages, run.usage)
        assert (run.turns[1], 2, 3) == (error.completion, len(run.turns), len(run.messages))
        assert 10 == (run.usage.total_tokens if run.usage else None)
        copied = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
        assert (str(error), error.messages) == (str(copied), copied.messages)
        with pytest.raises(GradientError, match="no answer: MaxTurnsError: the model still calls tools"):
            await run.completion()
        assert ([], []) == (MaxTurnsError().turns, MaxTurnsError().completion.choices)

    async def test_ten_turns_by_default(self, start: Start) -> None:
        server, client = await start(*[calls(PARIS)] * 11)
        with pytest.raises(MaxTurnsError):
            await begin(client).completion()
        assert 10 == len(server.requests)

    @pytest.mark.parametrize("custom", [False, True])
    async def test_a_call_of_a_mapping_ends_the_run(self, start: Start, custom: bool) -> None:
        """Nothing of the turn runs, and no call stays unanswered in the messages."""
        if custom:
            entry = {"id": "b", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
            reply: Handler = reply_json(
                completion(
                    None, tool_calls=[entry, *_entries(("add", '{"a":1}'))], finish_reason="tool_calls"
                )
            )
        else:
            reply = calls(("add", '{"a":1}'), PARIS, stream=False)
        ran: list[int] = []

        def add(a: int) -> None:
            ran.append(a)

        server, client = await start(reply)
        run = begin(client, WEATHER, add, stream=False)
        events = await events_of(run)
        done = await run.completion()
        assert ([], 1, MESSAGES) == (ran, len(server.requests), run.messages)
        assert 2 == len(done.choices[0].message.tool_calls or [])
        assert not [event for event in events if event.type.startswith("tool.")]
        assert [WEATHER, tool(add).to_dict()] == server.requests[0].json["tools"]

    async def test_a_call_of_the_older_form_ends_the_run(self, start: Start) -> None:
        """No call stays unanswered in the messages."""
        call = {"name": "add", "arguments": "{}"}
        reply = completion(None, finish_reason="function_call")
        reply["choices"][0]["message"]["function_call"] = call
        _, client = await start(reply_json(reply))
        run = begin(client, stream=False)
        message = (await run.completion()).choices[0].message
        assert ("add", MESSAGES) == (message.function_call and message.function_call.name, run.messages)


class TestTurnsThatDidNotEndWell:
    """Nothing of them runs."""

    async def test_a_stream_error_leaves_as_it_is(self, start: Start) -> None:
        cut = calls(PARIS)
        server, client = await start(calls(ROME), reply_writes([*_steps(cut)[:2], RESET]), calls(PARIS))
        run = begin(client)
        with pytest.raises(StreamInterruptedError) as raised:
            await run.completion()
        assert raised.value.partial is not None
        assert raised.value.partial.choices[0].message.tool_calls
        assert ["turn 1 of the run"] == raised.value.__notes__
        assert run.usage is not None
        assert (2, 1, 5) == (len(server.requests), len(run.turns), run.usage.total_tokens)
        assert [["a"], ("a", "Rome: 20 C")] == shown(run.messages)
        _, other = await start(answers())
        assert (await begin(other, messages=run.messages).completion()).choices[0].message.content == "Done."

    async def test_an_error_of_the_server_leaves_as_it_is(self, start: Start, stream: bool) -> None:
        _, client = await start(calls(PARIS, stream=stream), reply_json({"message": "no"}, 400))
        run = begin(client, stream=stream)
        with pytest.raises(APIStatusError) as raised:
            await events_of(run)
        assert ["turn 1 of the run"] == raised.value.__notes__

    @pytest.mark.parametrize(
        ("reason", "kind"),
        [("length", LengthFinishReasonError), ("content_filter", ContentFilterFinishReasonError)],
    )
    @pytest.mark.parametrize("response_format", [None, Count])
    async def test_cut_calls(
        self, start: Start, stream: bool, reason: str, kind: type[OutputError], response_format: Any
    ) -> None:
        server, client = await start(calls(PARIS, finish_reason=reason, stream=stream))
        run = begin(client, stream=stream, response_format=response_format)
        with pytest.raises(kind) as raised:
            await run.completion()
        assert isinstance(raised.value.completion, ParsedChatCompletion)
        assert raised.value.completion.choices[0].message.tool_calls
        assert (1, MESSAGES, 1) == (len(server.requests), run.messages, len(run.turns))
        assert ["turn 0 of the run"] == raised.value.__notes__

    @pytest.mark.parametrize("reason", ["stop", "tool_calls", "eos", None])
    async def test_every_other_reason_runs_them(self, start: Start, stream: bool, reason: str | None) -> None:
        _, client = await start(calls(PARIS, finish_reason=reason, stream=stream), answers(stream=stream))
        run = begin(client, stream=stream)
        await run.completion()
        assert 2 == len(run.turns)

    async def test_arguments_that_are_no_json_are_told(self, start: Start) -> None:
        """Some servers say ``tool_calls`` of calls that were cut. Some refuse a history with arguments that are no object."""
        texts = ['{"city":"Pa', '["Paris"]', "", " ", '{"city":"Paris"}', '```json\n{"city":"Rome"}\n```']
        server, client = await start(calls(*(("get_weather", text) for text in texts)), answers())
        run = begin(client)
        events = await events_of(run)
        message, *results = server.requests[1].json["messages"][1:]
        told = [
            str(result["content"]).startswith("Invalid arguments for get_weather: ") for result in results
        ]
        assert [True] * 4 + [False] * 2 == told
        assert texts == [event.call.function.arguments for event in events if event.type == "tool.started"]
        assert [
            {"INVALID_JSON": texts[0]}, {"INVALID_JSON": texts[1]}, {}, {}, {"city": "Paris"}, {"INVALID_JSON": texts[5]},
        ] == [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]]  # fmt: skip
        assert texts == [call.function.arguments for call in run.turns[0].choices[0].message.tool_calls or ()]


class TestState:
    """`turns`, `messages` and `usage`, at any time."""

    async def test_a_message_and_its_results_enter_together(self, start: Start) -> None:
        _, client = await start(calls(PARIS, ROME, content="Let me see."), answers())
        both = [["a", "b"], ("a", "Paris: 20 C"), ("b", "Rome: 20 C")]
        async with begin(client) as run:
            async for event in run:
                now = shown(run.messages)
                assert now in ([], both)
                if event.type == "tool.started":
                    assert [] == now
                if event.type == "tool.finished" and event.index == 1:
                    assert both == now  # before the loop goes on, and if it is left here
        assert [*both, "Done."] == shown(run.messages)

    async def test_calls_without_an_id(self, start: Start) -> None:
        """Or with that of another: results name their call by the id."""
        server, client = await start(
            calls((*PARIS, ""), (*ROME, "x"), ("add", '{"a":1}', "x"), stream=False),
            calls((*PARIS, ""), stream=False),
            answers(stream=False),
        )
        run = begin(client, stream=False)
        events = await events_of(run)
        first, second = (request.json["messages"] for request in server.requests[1:])
        assert ["call_0_0", "x", "call_0_2"] == [call["id"] for call in first[1]["tool_calls"]]
        assert ["call_0_0", "x", "call_0_2"] == [message["tool_call_id"] for message in first[2:]]
        assert "call_1_0" == second[5]["tool_calls"][0]["id"] == second[6]["tool_call_id"]
        ids = [event.id for event in events if isinstance(event, ToolStartedEvent)]
        assert ["call_0_0", "x", "call_0_2", "call_1_0"] == ids
        assert "" == (run.turns[0].choices[0].message.tool_calls or [])[0].id

    async def test_usage_is_summed_with_its_details(self, start: Start) -> None:
        details = USAGE | {"prompt_tokens_details": {"cached_tokens": 2}}
        _, client = await start(calls(PARIS, usage=details), calls(PARIS, usage=None), answers(usage=details))
        run = begin(client)
        await run.completion()
        assert run.usage is not None and run.usage.prompt_tokens_details is not None
        assert (6, 4) == (run.usage.prompt_tokens, run.usage.prompt_tokens_details.cached_tokens)
        _, client = await start(answers(usage=None))
        run = begin(client)
        await run.completion()
        assert run.usage is None

    async def test_replies_keep_what_the_session_knows(self, start: Start, stream: bool) -> None:
        _, client = await start(calls(PARIS, stream=stream), answers(stream=stream))
        run = begin(client, stream=stream)
        await run.completion()
        assert all(each.headers for each in run.turns)

    async def test_repr(self, start: Start) -> None:
        _, client = await start(answers(), reply_json({"message": "no"}, 400))
        run = begin(client)
        assert "<ToolRun open turns=0>" == repr(run)
        await run.completion()
        assert "<ToolRun completed turns=1>" == repr(run)
        run = begin(client)
        with pytest.raises(APIStatusError):
            await run.completion()
        assert "<ToolRun ended early turns=0>" == repr(run)


class TestLaterTurns:
    """What is sent after the first turn."""

    @pytest.mark.parametrize(
        ("choice", "later"),
        [
            ("required", None),
            ({"type": "function", "function": {"name": "add"}}, None),
            ("auto", "auto"),
            ("none", "none"),
            (None, None),
            (
                {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
                {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}},
            ),
            (
                {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}},
                {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}},
            ),
        ],
    )
    async def test_a_forced_choice_is_sent_once(self, start: Start, choice: Any, later: Any) -> None:
        server, client = await start(calls(PARIS), calls(PARIS), answers())
        await begin(client, tool_choice=choice).completion()
        sent = [request.json.get("tool_choice") for request in server.requests]
        assert [choice, later, later] == sent

    @pytest.mark.parametrize("form", [Count, Answer(Count, name="Counted")])
    async def test_the_format_goes_with_every_turn(self, start: Start, stream: bool, form: Any) -> None:
        """Only the last, that without calls, is parsed."""
        server, client = await start(
            calls(PARIS, content="not yet", stream=stream), answers('{"n":3}', stream=stream)
        )
        run = begin(client, response_format=form, stream=stream)
        done = await run.completion()
        answer = answer_of(form)
        assert answer is not None
        assert {json.dumps(answer.response_format)} == {
            json.dumps(request.json["response_format"]) for request in server.requests
        }
        assert (ParsedChatCompletion, Count(3)) == (type(done), done.parsed)
        first: Any = run.turns[0]
        assert done is run.turns[1] and (ParsedChatCompletion, None) == (type(first), first.parsed)
        assert '{"n":3}' == shown(run.messages)[-1]

    async def test_events_of_a_typed_run(self, start: Start, stream: bool) -> None:
        """`content.delta` has what is known so far, and `content.done` the value. Text beside calls is no answer."""
        if stream:
            pieces = ('{"n"', ": 1", "2, ", '"x": 0}')
            last: Handler = reply_sse(*map(chunk, pieces), chunk(finish_reason="stop"))
        else:
            last = answers('{"n": 12, "x": 0}', stream=False)
        _, client = await start(calls(PARIS, content="not JSON", stream=stream), last)
        run = begin(client, response_format=Count, stream=stream)
        seen: list[Any] = []
        async for event in run:
            if event.type == "content.delta" or event.type == "content.done":  # noqa: PLR1714  # for checkers
                parsed: Any = event.parsed
                seen.append((event.turn, event.type, copy.copy(parsed)))
        partial: list[Any] = [{}, {}, {"n": 12}, {"n": 12, "x": 0}] if stream else [{"n": 12, "x": 0}]
        assert seen == [
            (0, "content.delta", None), (0, "content.done", None),
            *((1, "content.delta", known) for known in partial), (1, "content.done", Count(12)),
        ]  # fmt: skip
        assert Count(12) == (await run.completion()).parsed

    async def test_reading_an_invalid_answer_of_a_run(self, start: Start, stream: bool) -> None:
        """Reading it raises, and so does the end of the run, with the completion in `turns`."""
        _, client = await start(answers('{"n":"x"}', stream=stream))
        run = begin(client, response_format=Count, stream=stream)
        parsed = 0
        with pytest.raises(OutputValidationError) as raised:
            async for event in run:
                if event.type == "content.done":
                    with pytest.raises(OutputValidationError):
                        _ = event.parsed
                    parsed += 1
        assert (1, ["turn 0 of the run"], run.turns[0]) == (
            parsed,
            raised.value.__notes__,
            raised.value.completion,
        )

    async def test_a_schema_as_the_api_takes_it(self, start: Start) -> None:
        server, client = await start(answers("{}"))
        done = await begin(client, response_format={"type": "json_object"}).completion()
        assert not isinstance(done, ParsedChatCompletion)
        assert {"type": "json_object"} == server.requests[0].json["response_format"]

    @pytest.mark.parametrize(
        ("text", "reason", "kind"),
        [
            ("no", "stop", OutputDecodeError),
            ('{"n":"x"}', "stop", OutputValidationError),
            ('{"n":3}', "length", LengthFinishReasonError),
        ],
    )
    async def test_an_answer_that_is_no_value(
        self, start: Start, text: str, reason: str, kind: type[OutputError]
    ) -> None:
        """The answer is in the messages, so that one can ask again."""
        _, client = await start(calls(PARIS), answers(text, finish_reason=reason))
        run = begin(client, response_format=Count)
        with pytest.raises(kind) as raised:
            await run.completion()
        assert (run.turns[1], text) == (raised.value.completion, shown(run.messages)[-1])
        with pytest.raises(GradientError, match=f"no answer: {kind.__name__}"):
            await run.completion()

    async def test_typed_runs_that_end_with_calls(self, start: Start) -> None:
        """`stop_when`, and a call of a mapping: there is no answer to read."""
        _, client = await start(*[calls(PARIS, content="thinking")] * 2)

        def always(_: ToolRun[Any]) -> bool:
            return True

        run = begin(client, response_format=Count, stop_when=always)
        assert (ParsedChatCompletion, None) == (type(done := await run.completion()), done.parsed)
        run = begin(client, WEATHER, response_format=Count)
        assert (ParsedChatCompletion, None) == (type(done := await run.completion()), done.parsed)

    async def test_a_refusal_has_no_value(self, start: Start) -> None:
        _, client = await start(reply_sse(chunk(refusal="no"), chunk(finish_reason="stop")))
        assert (await begin(client, response_format=Count).completion()).parsed is None


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
        _, client = await start(reply_writes([*_steps(answers())[:2], 0.05, *_steps(answers())[2:]]))
        run = begin(client)
        reading = asyncio.create_task(run.completion())
        await asyncio.sleep(0.02)
        for other in (run.__anext__, run.completion, run.aclose):
            with pytest.raises(RuntimeError, match="another task is reading this run"):
                await other()
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
        gc.collect()
        gc.disable()
        try:
            for each in options:
                run = begin(client, get_weather, fail, **each)
                held = weakref.ref(run), weakref.ref(run.state)
                await end(run)
                del run
                assert (None, None) == (held[0](), held[1]())
            await leave_early(begin(client, get_weather, fail, on_tool_error="raise"))
            assert not [each for each in gc.get_objects() if type(each).__name__ == "TurnTools"]
        finally:
            gc.enable()


def _steps(reply: Any) -> Any:
    return reply.steps


def _chunks(reply: Any) -> list[Any]:
    """Return the events of a scripted reply."""
    lines = reply.data.partition(b"\r\n\r\n")[2].split(b"data: ")[1:-1]
    return [json.loads(line.partition(b"\n")[0]) for line in lines]


def _entries(*calls: tuple[str, str]) -> list[Any]:
    return [
        {"id": f"e{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
