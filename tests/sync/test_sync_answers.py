"""Typed answers and tools without asyncio."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from sync_calls import CALL, OPEN, started

from gradient_async import (
    Answer,
    ChatCompletion,
    FanOutError,
    InvalidRequestError,
    OutputValidationError,
    ParsedChatCompletion,
    ParsedChoice,
    Stream,
    tool,
)
from gradient_async.sync import ParsedStream
from gradient_async.testing import chunk, completion, reply_json, reply_sse


class Count(Struct):
    n: int


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return city


def test_parse() -> None:
    """For models and agents, with the arguments, replies and errors of the method for asyncio."""
    with started(handler=reply_json(completion('{"n":3}'))) as (server, client):
        parsed = client.chat.completions.parse(**CALL, response_format=Count, tools=[get_weather])
        assert (Count(3), ParsedChatCompletion) == (parsed.parsed, type(parsed))
        agent = client.agents.chat.completions.parse(messages=CALL["messages"], response_format=Answer(Count))
        assert Count(3) == agent.parsed
        assert client.chat.completions.parse(**CALL).parsed is None
        body = server.requests[0].json
        assert (Answer(Count).response_format, [tool(get_weather).to_dict()]) == (
            body["response_format"],
            body["tools"],
        )


def test_errors_and_retries() -> None:
    replies = (reply_json(completion('{"n":"x"}')), reply_json(completion('{"n":1}')))
    with started(*replies) as (_, client):
        assert 2 == client.chat.completions.parse(**CALL, response_format=Count, output_retries=1).attempts
    with started(*replies) as (server, client):
        create: Any = client.chat.completions.create
        with pytest.raises(InvalidRequestError, match=r"use parse\(\) or stream\(\)"):
            create(**CALL, response_format=Count)
        with pytest.raises(OutputValidationError) as raised:
            client.chat.completions.parse(**CALL, response_format=Count)
        assert ("$.n", 1) == (raised.value.path, len(server.requests))


PIECES = ['{"n"', ":", "3", "}"]
TYPED = reply_sse(*map(chunk, PIECES), chunk(finish_reason="stop"))
FAULTY = reply_sse(chunk('{"n":"x"}'), chunk(finish_reason="stop"))


def test_streams() -> None:
    """`with stream(response_format=)`: completion, snapshot and events as for asyncio."""
    with started(handler=TYPED) as (server, client):
        with client.chat.completions.stream(**CALL, response_format=Count) as stream:
            before = stream.snapshot
            assert before.parsed is None
            events: list[Any] = list(stream.events())
            assert Count(3) == stream.completion().parsed == stream.snapshot.parsed
            assert Count(3) == stream.get_final_completion().parsed
            assert Count(3) == stream.current_completion_snapshot.parsed
            kind: type[Any] = type(stream)
            assert (ParsedStream, True) == (kind, issubclass(kind, Stream))
        assert {"n": 3} == [event.parsed for event in events if event.type == "content.delta"][-1]
        assert [Count(3)] == [event.parsed for event in events if event.type == "content.done"]
        assert Answer(Count).response_format == server.requests[0].json["response_format"]
        agent = client.agents.chat.completions.stream
        with agent(messages=CALL["messages"], response_format=Answer(Count)) as stream:
            grown = [copy.copy(event.parsed) for event in stream.events() if event.type == "content.delta"]
            assert [{}, {}, {}, {"n": 3}] == grown
        with client.chat.completions.stream(**CALL) as plain:
            assert (Stream, ChatCompletion) == (type(plain), type(plain.completion()))
            assert ChatCompletion is type(plain.current_completion_snapshot)


def test_the_error_comes_at_the_end_of_a_stream() -> None:
    with started(handler=FAULTY) as (_, client):
        with client.chat.completions.stream(**CALL, response_format=Count) as stream:
            for read in (stream.completion, stream.get_final_completion, stream.until_done):
                with pytest.raises(OutputValidationError):
                    read()
            assert stream.snapshot.parsed is None
            assert stream.completed
        with client.chat.completions.stream(**CALL, response_format=Count) as stream:
            kinds: list[str] = []
            with pytest.raises(OutputValidationError) as raised:
                kinds.extend(event.type for event in stream.events())
            assert "finish" == kinds[-1]
            assert "$.n" == raised.value.path
        with client.chat.completions.stream(**CALL, response_format=Count) as stream:
            assert ['{"n":"x"}'] == list(stream.text)
        stream_: Any = client.chat.completions.stream
        with pytest.raises(InvalidRequestError):
            stream_(**CALL, response_format=object())


def test_fan_outs() -> None:
    """An answer that is no value wins nothing; `stop_when` sees parsed choices."""
    seen: list[Any] = []

    def wanted(choice: ParsedChoice[Count]) -> bool:
        seen.append(choice.message.parsed)
        return True

    call: Any = CALL | {"response_format": Count}
    with (
        started(FAULTY, TYPED, OPEN) as (_, client),
        client.chat.completions.fan_out(**call, n=3, max_concurrency=1, stop_when=wanted) as fan,
    ):
        found: Any = fan.completion()
        assert ([1], Count(3)) == (fan.winners, found.choices[0].message.parsed)
        assert ParsedChatCompletion is type(fan.snapshot)
    assert [Count(3)] == seen
    with started(handler=FAULTY) as (_, client):
        agent: Any = client.agents.chat.completions
        with pytest.raises(FanOutError, match="2 of 2 choices failed"):
            agent.fan_out(**call, n=2, first=1, on_error="collect").completion()


def test_maps(tmp_path: Path) -> None:
    """Values, errors, retries, and a journal."""
    good, bad = (reply_json(completion(text)) for text in ('{"n":3}', '{"n":"x"}'))
    with started(good, bad, bad, good) as (server, client):
        call: Any = client.chat.completions.map
        options: Any = {"response_format": Count, "max_concurrency": 1, "journal": tmp_path / "results.jsonl"}
        one, two = call([CALL, CALL], **options)
        assert (Count(3), None) == (one.parsed, two.parsed)
        assert isinstance(two.error, OutputValidationError)
        one, two = call(iter([CALL, CALL]), **options, output_retries=1)
        assert [(Count(3), True), (Count(3), False)] == [(each.parsed, each.resumed) for each in (one, two)]
        assert 4 == len(server.requests)
