"""Typed answers and tools without asyncio."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct
from sync_calls import CALL, started

from gradient_async import Answer, InvalidRequestError, OutputValidationError, ParsedChatCompletion, tool
from gradient_async.testing import completion, reply_json


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
