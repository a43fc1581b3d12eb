"""The conversation of a run: how it ends, its state at any time, and what later turns send."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from client_calls import MESSAGES, Start
from msgspec import Struct
from runs import PARIS, ROME, USAGE, answers, begin, calls, events_of, shown

from gradient_async import (
    Answer,
    APIStatusError,
    ContentFilterFinishReasonError,
    GradientError,
    LengthFinishReasonError,
    MaxTurnsError,
    OutputDecodeError,
    OutputError,
    OutputValidationError,
    ParsedChatCompletion,
    StreamInterruptedError,
    ToolRun,
    ToolStartedEvent,
    tool,
)
from gradient_async.output import answer_of
from gradient_async.testing import (
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


@pytest.fixture(params=[True, False], ids=["streamed", "awaited"])
def stream(request: pytest.FixtureRequest) -> bool:
    """Whether replies are streamed."""
    return bool(request.param)


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


def _steps(reply: Any) -> Any:
    return reply.steps


def _entries(*calls: tuple[str, str]) -> list[Any]:
    return [
        {"id": f"e{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
