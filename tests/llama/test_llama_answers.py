"""Typed answers of a real model server, whose grammar holds the model to the schema: awaited, streamed, several, many."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

from gradient_async import Answer, AsyncGradient, LengthFinishReasonError, ParsedChatCompletion

MODEL = "tiny-chat"
LlamaServer = Callable[..., str]


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Part(Struct):
    colour: Colour
    broken: bool = False


class Lamp(Struct):
    """The model knows nothing of lamps: only the grammar makes it write one."""

    state: Literal["on", "off"]
    parts: Annotated[list[Part], Meta(min_length=1, max_length=2)]
    spare: Part | None


ANSWERS: list[tuple[Any, type[Any]]] = [
    (Lamp, Lamp),
    (Answer(Lamp, name="lamp", description="A lamp", strict=False), Lamp),
    (Literal["complaint", "question"], str),
]


@pytest.fixture
async def chat(llama: LlamaServer) -> AsyncIterator[Any]:
    """The methods of a client; their types are no matter of these tests."""
    async with AsyncGradient(inference_endpoint=llama(), model_access_key="any", timeout=60) as client:
        yield client.chat.completions


def params(response_format: Any) -> dict[str, Any]:
    """Return the parameters of a request."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Say hello"}],
        "response_format": response_format,
        "temperature": 0,
        "max_tokens": 300,
    }


def check(completion: ParsedChatCompletion[Any], type_: type[Any]) -> None:
    """Check that the text is the value."""
    assert isinstance(completion.parsed, type_)
    plain: Any = msgspec.json.decode(completion.choices[0].message.content or "")
    value = msgspec.to_builtins(completion.parsed)
    assert value == (plain if type_ is Lamp else plain["value"])


@pytest.mark.parametrize(("response_format", "type_"), ANSWERS)
async def test_parse(chat: Any, response_format: Any, type_: type[Any]) -> None:
    check(await chat.parse(**params(response_format)), type_)


@pytest.mark.parametrize(("response_format", "type_"), ANSWERS)
async def test_stream(chat: Any, response_format: Any, type_: type[Any]) -> None:
    """What is known grows up to the value."""
    known: Any = None
    async with chat.stream(**params(response_format)) as stream:
        events = [event async for event in stream.events()]
        for event in events:
            if event.type == "content.delta":
                known = event.parsed
        completion = await stream.completion()
    check(completion, type_)
    assert known == msgspec.to_builtins(completion.parsed)
    assert [completion.parsed] == [event.parsed for event in events if event.type == "content.done"]


async def test_several_and_many(chat: Any) -> None:
    async with chat.fan_out(n=3, first=1, **params(Lamp)) as fan:
        completion = await fan.completion()
    assert fan.winner is not None
    check(completion, Lamp)
    requests = [params(Lamp), params(Literal["a"]), params(None)]
    results = [result async for result in chat.map(requests, ordered=True)]
    assert [Lamp, str] == [type(result.unwrap().parsed) for result in results[:2]]
    assert results[2].error is None


async def test_an_answer_that_is_cut(chat: Any) -> None:
    with pytest.raises(LengthFinishReasonError) as raised:
        await chat.parse(**{**params(Lamp), "max_tokens": 3})
    assert raised.value.completion.usage is not None
