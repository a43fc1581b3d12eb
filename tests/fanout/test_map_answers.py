"""`map(response_format=T)`: results with values, errors of answers, retries, and values made again from a journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from client_calls import Start
from many_servers import ask_for, prompts
from msgspec import Struct

from gradient_async import (
    Answer,
    AsyncGradient,
    ChatCompletion,
    ConfigurationError,
    FanOutError,
    InvalidRequestError,
    LengthFinishReasonError,
    MapFailure,
    MapResult,
    MapSuccess,
    OutputDecodeError,
    OutputError,
    OutputValidationError,
    ParsedChatCompletion,
    tool,
)
from gradient_async.testing import Connection, Request, completion, reply_json


class Count(Struct):
    n: int


class Word(Struct):
    word: str


class Model:
    """Answers a prompt with the text of this prompt, in its first message.

    Attributes:
        texts: The prompts, in the order of arrival.
    """

    def __init__(self, **extra: Any) -> None:
        self.texts: list[str] = []
        self.extra = extra

    async def __call__(self, request: Request, connection: Connection) -> None:
        text = request.json["messages"][0]["content"]
        self.texts.append(text)
        if len(request.json["messages"]) > 1:  # asked again
            text = '{"n":9}'
        await reply_json(completion(text, **self.extra))(request, connection)


async def all_of(client: AsyncGradient, requests: Any, **options: Any) -> list[MapResult[Any]]:
    call: Any = client.chat.completions.map
    return [
        result async for result in call(requests, **({"response_format": Count, "ordered": True} | options))
    ]


async def test_results_have_values(start: Start) -> None:
    """`.parsed` is short for that of the completion; the schema is sent with each request."""
    server, client = await start(handler=Model())
    one, two = await all_of(client, [ask_for('{"n":1}'), ("key", ask_for('{"n":2}'))])
    assert isinstance(one, MapSuccess) and isinstance(two, MapSuccess)
    assert ParsedChatCompletion is type(one.completion)
    assert (Count(1), Count(1), one.completion) == (one.parsed, one.completion.parsed, one.unwrap())
    assert (Count(2), "key") == (two.parsed, two.key)
    formats = [request.json["response_format"] for request in server.requests]
    assert [Answer(Count).response_format] * 2 == formats
    assert "response_format" not in one.request, "the request is as it was given"


async def test_agents_streams_and_answers_that_say_more(start: Start) -> None:
    _, client = await start(handler=Model())
    requests = [{"messages": ask_for('{"n":1}')["messages"]}]
    call = client.agents.chat.completions.map
    async for result in call(requests, response_format=Answer(Count, strict=False), stream=True):
        assert Count(1) == result.parsed


@pytest.mark.parametrize(
    ("text", "extra", "kind"),
    [
        ("no", {}, OutputDecodeError),
        ('{"n":"x"}', {}, OutputValidationError),
        ('{"n":', {"finish_reason": "length"}, LengthFinishReasonError),
    ],
)
async def test_a_fault_of_an_answer_is_the_error_of_its_result(
    start: Start, text: str, extra: dict[str, Any], kind: type[OutputError]
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | extra
    _, client = await start(handler=reply_json(completion(choices=[choice])))
    (result,) = await all_of(client, prompts(1))
    assert isinstance(result, MapFailure)
    assert (kind, None, None) == (type(result.error), result.parsed, result.completion)
    assert isinstance(result.error, OutputError)
    assert text == result.error.completion.choices[0].message.content
    with pytest.raises(kind):
        result.unwrap()
    with pytest.raises(FanOutError):
        await all_of(client, prompts(1), on_error="raise")


async def test_a_type_among_the_parameters_of_one_request(start: Start) -> None:
    """It works too, beside others and beside none; a schema and a type without one are each request's own affair."""
    server, client = await start(handler=Model())
    requests = [
        ask_for('{"n":1}'),
        ask_for('{"word":"a"}', response_format=Word),
        ask_for('{"n":1}', response_format=Answer(Count)),
        ask_for("text", response_format={"type": "json_object"}),
        ask_for("text", response_format=None),
        ask_for("text", response_format=object()),
    ]
    results = await all_of(client, requests)
    assert [Count(1), Word("a"), Count(1)] == [result.parsed for result in results[:3]]
    assert [ChatCompletion] * 2 == [type(result.completion) for result in results[3:5]]
    assert isinstance(results[5].error, InvalidRequestError)
    assert 5 == len(server.requests)
    results = await all_of(client, requests[:2], response_format=None)
    assert ChatCompletion is type(results[0].completion)
    assert Word("a") == results[1].parsed
    assert Word is requests[1]["response_format"]


async def test_options_are_checked_at_the_call(start: Start) -> None:
    server, client = await start()
    call: Any = client.chat.completions.map
    with pytest.raises(InvalidRequestError, match="response_format"):
        call([], response_format=object())
    with pytest.raises(ConfigurationError, match="output_retries"):
        call([], response_format=Count, output_retries=-1)
    with pytest.raises(InvalidRequestError, match="n above 1"):
        call([], response_format=Count, output_retries=1, n=2)
    with pytest.raises(TypeError, match="Did you mean 'output_retries'"):
        call([], output_retrys=1)
    assert not server.requests


async def test_output_retries(start: Start) -> None:
    """Asks again for one answer; usage and attempts are added up. 0 by default: nothing is paid twice unasked."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    model = Model(usage=usage)
    server, client = await start(handler=model)
    one, two = await all_of(client, [ask_for('{"n":1}'), ask_for("no")], output_retries=2)
    assert (Count(1), Count(9)) == (one.parsed, two.parsed)
    assert (1, 2) == (one.unwrap().attempts, two.unwrap().attempts)
    assert (5, 10) == (one.unwrap().usage.total_tokens, two.unwrap().usage.total_tokens)
    assert ["user", "assistant", "user"] == [each["role"] for each in server.requests[-1].json["messages"]]
    (failed,) = await all_of(client, [ask_for("no")])
    assert isinstance(failed.error, OutputDecodeError)
    (refused,) = await all_of(client, [ask_for("no", n=2)], output_retries=1)
    assert isinstance(refused.error, InvalidRequestError)
    assert ['{"n":1}', "no", "no", "no"] == sorted(model.texts, key=len, reverse=True)


# Journals


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


async def test_a_journal_keeps_the_text_and_it_is_decoded_again(start: Start, path: Path) -> None:
    model = Model()
    _, client = await start(handler=model)
    requests = [ask_for('{"n":1}'), ask_for('{"word":"a"}', response_format=Word)]
    first = await all_of(client, requests, journal=path)
    again = await all_of(client, requests, journal=path)
    assert [Count(1), Word("a")] == [result.parsed for result in first] == [result.parsed for result in again]
    assert [False, True] == [first[0].resumed, again[0].resumed]
    assert ParsedChatCompletion is type(again[0].completion)
    assert 2 == len(model.texts)
    bodies = [row["response"]["body"]["choices"][0]["message"] for row in rows_in(path)]
    assert {'{"n":1}', '{"word":"a"}'} == {message["content"] for message in bodies}
    assert not any("parsed" in message for message in bodies)


async def test_a_journal_keeps_the_usage_of_all_tries(start: Start, path: Path) -> None:
    """As the completion of the first run has it."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    _, client = await start(handler=Model(usage=usage))
    requests = [ask_for('{"n":1}'), ask_for("no")]
    for resumed in (False, True):
        one, two = await all_of(client, requests, journal=path, output_retries=1)
        assert (resumed, Count(9)) == (two.resumed, two.parsed)
        assert [(1, 5), (2, 10)] == [
            (each.unwrap().attempts, each.unwrap().usage.total_tokens) for each in (one, two)
        ]
    one, two = sorted((row["response"] for row in rows_in(path)), key=lambda row: int(row["attempts"]))
    assert (None, 10) == (one.get("usage"), two["usage"]["total_tokens"])
    assert usage == one["body"]["usage"] == two["body"]["usage"], "bodies are as the server sent them"


async def test_another_type_is_another_request(start: Start, path: Path) -> None:
    """The schema is a parameter: an answer to another one is asked for."""
    model = Model()
    _, client = await start(handler=model)
    await all_of(client, [ask_for('{"n":1}')], journal=path)
    (result,) = await all_of(client, [ask_for('{"n":1}')], journal=path, response_format=Word)
    assert (False, 2) == (result.resumed, len(model.texts))
    assert isinstance(result.error, OutputValidationError)


async def test_faulty_answers_are_asked_for_again(start: Start, path: Path) -> None:
    """They are errors, which the next run asks again; the journal has the completion that was paid for."""
    model = Model()
    _, client = await start(handler=model)
    for _ in range(2):
        (result,) = await all_of(client, [ask_for("no")], journal=path)
        assert isinstance(result.error, OutputDecodeError)
        assert not result.resumed
    assert 2 == len(model.texts)
    (row,) = rows_in(path)
    assert ("OutputDecodeError", None) == (row["error"]["type"], row["response"])
    assert "no" == row["error"]["partial"]["choices"][0]["message"]["content"]


async def test_a_text_of_the_journal_that_is_no_value_any_longer(start: Start, path: Path) -> None:
    """A check that the schema does not show has changed: the error is the result, and nothing is paid again."""

    class Checked(Struct):
        n: int
        largest = 5

        def __post_init__(self) -> None:
            if self.n > Checked.largest:
                raise ValueError("too large")

    model = Model()
    _, client = await start(handler=model)
    (result,) = await all_of(client, [ask_for('{"n":3}')], journal=path, response_format=Checked)
    assert Checked(3) == result.parsed
    Checked.largest = 1
    (result,) = await all_of(client, [ask_for('{"n":3}')], journal=path, response_format=Checked)
    assert isinstance(result.error, OutputValidationError)
    assert (True, 1) == (result.resumed, len(model.texts))


async def test_functions_among_the_tools_of_one_request(start: Start, path: Path) -> None:
    """With a journal as without one; a function that cannot be a tool is the error of its request."""

    def f(city: str) -> str:
        return city

    server, client = await start(handler=Model())
    requests = [ask_for('{"n":1}', tools=[f]), ask_for('{"n":1}', tools=[int])]
    for resumed in (False, True):
        one, two = await all_of(client, requests, journal=path)
        assert (Count(1), resumed) == (one.parsed, one.resumed)
        assert isinstance(two.error, InvalidRequestError)
        assert "request 1: " in str(two.error)
    assert [[tool(f).to_dict()]] == [request.json["tools"] for request in server.requests]


async def test_errors_of_earlier_runs_and_plain_results_stay(start: Start, path: Path) -> None:
    """Of a request that was refused there is no text to read; and a map without a type reads none."""
    _, client = await start(handler=reply_json({"error": {"message": "no"}}, 400))
    for resumed in (False, True):
        (result,) = await all_of(client, prompts(1), journal=path)
        assert ("BadRequestError", resumed) == (type(result.error).__name__, result.resumed)
    _, client = await start(handler=Model())
    for _ in range(2):
        (plain,) = await all_of(client, [ask_for("x")], journal=path, response_format=None)
        assert ChatCompletion is type(plain.completion)
