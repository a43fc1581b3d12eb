"""JSON of any depth gives a completion or a typed error, by every way into the library and out of it."""

from __future__ import annotations

import copy
import io
import json
import pickle
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from client_calls import CALL, MESSAGES, Start

from gradient_async import (
    APIResponseValidationError,
    AsyncGradient,
    BadRequestError,
    FanOutError,
    GradientError,
    InvalidRequestError,
    StreamError,
    StreamProtocolError,
)
from gradient_async.cli import main
from gradient_async.testing import Server, chunk, reply_bytes, reply_sse, serve, sse
from gradient_async.types import ChatCompletion, ChatCompletionMessage

JSON_TYPE = {"content-type": "application/json"}
DEPTHS = [10, 50, 65, 700, 100_000]
KINDS: dict[str, Callable[[int], str]] = {
    "arrays": lambda depth: "[" * depth + "]" * depth,
    "objects": lambda depth: '{"k":' * depth + "1" + "}" * depth,
}
# Where the deep value is, in JSON of a chunk or of a completion, whose delta or message is `part`.
PLACES: dict[str, str] = {
    "unknown": '{"x":DEEP,"choices":[{"index":0,"PART":{"content":"a"},"finish_reason":"stop"}]}',
    "retrieval": '{"retrieval":DEEP,"choices":[{"index":0,"PART":{"content":"a"},"finish_reason":"stop"}]}',
    "annotations": '{"choices":[{"index":0,"PART":{"content":"a","annotations":[DEEP]},"finish_reason":"stop"}]}',
    "details": '{"choices":[{"index":0,"PART":{"content":"a","reasoning_details":[{"type":"t","x":DEEP}]},"finish_reason":"stop"}]}',
    "extra": '{"choices":[{"index":0,"PART":{"content":"a","extra_content":DEEP},"finish_reason":"stop"}]}',
    "content": '{"choices":[{"index":0,"PART":{"content":[{"type":"text","text":"a","x":DEEP}]},"finish_reason":"stop"}]}',
    "arguments": '{"choices":[{"index":0,"PART":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":DEEP}}]},'
    '"finish_reason":"stop"}]}',
    "call": '{"choices":[{"index":0,"PART":{"tool_calls":[{"index":0,"id":"c","custom":DEEP,"function":{"name":"f"}}]},'
    '"finish_reason":"stop"}]}',
    "logprobs": '{"choices":[{"index":0,"PART":{"content":"a"},"logprobs":DEEP,"finish_reason":"stop"}]}',
    "usage": '{"choices":[{"index":0,"PART":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":DEEP}}',
    "choices": '{"choices":DEEP}',
    "everything": "DEEP",
    "error": '{"error":{"message":"no","x":DEEP}}',
    "errors": '{"message":"no","errors":DEEP}',
    "beside choices": '{"choices":[{"index":0,"PART":{"content":"a"}}],"error":DEEP}',
    "detail": '{"detail":DEEP}',
}


def put(place: str, depth: int, kind: str, part: str) -> str:
    return PLACES[place].replace("PART", part).replace("DEEP", KINDS[kind](depth))


def use(found: ChatCompletion) -> None:
    """Do whatever users do with a completion."""
    for dumped in (
        found.to_dict(),
        found.model_dump(),
        json.loads(found.to_json()),
        json.loads(found.model_dump_json()),
    ):
        assert dumped["choices"]
    assert found == copy.deepcopy(found)
    pickle.loads(pickle.dumps(found))  # noqa: S301  # our own
    assert repr(found)


def look(error: GradientError) -> None:
    """Do whatever users do with an error."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert str(error) == str(again)
    assert repr(error)
    assert repr(vars(error))
    partial = error.partial if isinstance(error, StreamError) else None
    if partial is not None and partial.choices:
        use(partial)


async def outcome(call: Awaitable[Any]) -> ChatCompletion | GradientError:
    """Return what came of a call; any other exception fails the test."""
    try:
        found: ChatCompletion = await call
    except GradientError as error:
        look(error)
        return error
    use(found)
    return found


Way = Callable[[AsyncGradient], Awaitable[Any]]


async def awaited(client: AsyncGradient) -> Any:
    create: Any = client.chat.completions.create
    return await create(**CALL)


async def in_events(client: AsyncGradient) -> Any:
    async with client.chat.completions.stream(**CALL) as stream:
        async for event in stream.events():
            assert repr(event)
        return await stream.completion()


async def in_map(client: AsyncGradient) -> Any:
    (result,) = [result async for result in client.chat.completions.map([CALL])]
    return result.unwrap()


async def in_fan_out(client: AsyncGradient, *, stream: bool = True) -> Any:
    try:
        async with client.chat.completions.fan_out(n=1, stream=stream, **CALL) as fan:
            return await fan.completion()
    except FanOutError as error:
        raise error.exceptions[0] from None


AWAITED: dict[str, Way] = {
    "create": awaited,
    "map": in_map,
    "fan_out": lambda client: in_fan_out(client, stream=False),
}
STREAMED: dict[str, Way] = {"stream": in_events, "fan_out": in_fan_out}


@pytest.mark.parametrize("way", AWAITED)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("place", PLACES)
async def test_awaited_replies(start: Start, place: str, depth: int, way: str) -> None:
    """Deeper than the limit is an error with the text as its body; what is not deep is understood."""
    for kind in KINDS:
        body = put(place, depth, kind, "message")
        _, client = await start(reply_bytes(body.encode(), 200, JSON_TYPE))
        found = await outcome(AWAITED[way](client))
        if depth > 64:
            assert isinstance(found, APIResponseValidationError)
            assert "nested too deep" in found.message
            assert body[: 64 * 1024] == found.body
        elif depth == 10 and place in {"unknown", "retrieval", "annotations", "extra"}:
            assert isinstance(found, ChatCompletion)


@pytest.mark.parametrize("way", STREAMED)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("place", PLACES)
async def test_events(start: Start, place: str, depth: int, way: str) -> None:
    for kind in KINDS:
        body = put(place, depth, kind, "delta")
        _, client = await start(reply_sse(chunk("before "), body, chunk(finish_reason="stop")))
        found = await outcome(STREAMED[way](client))
        if depth > 64 and place not in {"unknown", "logprobs", "usage"}:
            assert isinstance(found, StreamProtocolError)
            assert "nested too deep" in found.message
            assert isinstance(found.body, str)
            assert body.startswith(found.body)
            assert found.partial is not None
            assert found.partial.choices[0].message.content == "before "
        elif depth == 10 and place in {"unknown", "retrieval", "annotations", "extra"}:
            assert isinstance(found, ChatCompletion)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("place", ["everything", "error", "errors", "detail"])
async def test_errors(start: Start, place: str, status: int, depth: int) -> None:
    """As a status, in place of a stream, and as an event of that name."""
    for kind in KINDS:
        body = put(place, depth, kind, "delta")
        _, client = await start(reply_bytes(body.encode(), status, JSON_TYPE))
        found = await outcome(in_events(client))
        if status == 400:
            assert isinstance(found, BadRequestError)
        assert isinstance(found, GradientError)
        if depth > 64:
            assert isinstance(found.body, str)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # every error of a reply has it
        _, client = await start(
            reply_bytes(
                sse(chunk("a")).replace(b"data: [DONE]\n\n", b"") + f"event: error\ndata: {body}\n\n".encode()
            )
        )
        assert isinstance(await outcome(in_events(client)), StreamError)


@pytest.mark.parametrize("depth", DEPTHS)
async def test_lists_of_models(start: Start, depth: int) -> None:
    for body in (KINDS["arrays"](depth), f'{{"data":[{{"id":"m","x":{KINDS["objects"](depth)}}}]}}'):
        _, client = await start(reply_bytes(body.encode(), 200, JSON_TYPE))
        try:
            models = await client.models.list()
        except GradientError as error:
            look(error)
        else:
            assert models.to_dict()["data"]


@pytest.mark.parametrize("depth", DEPTHS)
async def test_raw_replies(start: Start, depth: int) -> None:
    body = f'{{"x":{KINDS["arrays"](depth)}}}'
    _, client = await start(reply_bytes(body.encode(), 200, JSON_TYPE))
    create: Any = client.chat.completions.with_raw_response.create
    raw = await create(**CALL)
    if depth > 64:
        with pytest.raises(ValueError, match="nested too deep"):
            await raw.json()
        with pytest.raises(ValueError, match="nested too deep"):
            raw.http_response.json()
    else:
        assert await raw.json() == raw.http_response.json() == json.loads(body)


@pytest.mark.parametrize("depth", DEPTHS)
async def test_arguments_of_tools(start: Start, depth: int) -> None:
    """They are text, and events parse them."""
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": KINDS["objects"](depth)}}
    _, client = await start(reply_sse(chunk(tool_calls=[call]), chunk(finish_reason="tool_calls")))
    async with client.chat.completions.stream(**CALL) as stream:
        parsed: list[Any] = [
            getattr(event, "parsed_arguments", None)
            async for event in stream.events()
            if event.type.startswith("tool_calls.function.arguments")
        ]
        use(await stream.completion())
    assert parsed
    assert (parsed[-1] is None) is (depth > 64)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    "place",
    ["messages", "content", "metadata", "tools", "response_format", "extra_body", "messages of a reply"],
)
async def test_requests(start: Start, place: str, depth: int) -> None:
    """Refused before anything is sent, by every way to send."""
    deep = nested(depth)
    params: dict[str, dict[str, Any]] = {
        "messages": {"messages": [{"role": "user", "content": "x", "deep": deep}]},
        "content": {
            "messages": [
                *MESSAGES,
                {"role": "user", "content": [{"type": "text", "text": "x", "deep": deep}]},
            ]
        },
        "metadata": {"metadata": {"a": deep}},
        "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"deep": deep}}}]},
        "response_format": {"response_format": {"type": "json_schema", "json_schema": deep}},
        "extra_body": {"extra_body": {"deep": deep}},
        "messages of a reply": {
            "messages": [*MESSAGES, ChatCompletionMessage(content="x", extra_content=deep)]
        },
    }
    call = CALL | params[place]
    server, client = await start(validate=place != "metadata")
    completions: Any = client.chat.completions
    for way in (
        completions.create(**call),
        in_map_of(client, call),
        in_fan_out_of(client, call),
    ):
        found = await outcome(way)
        if depth > 64:
            assert isinstance(found, InvalidRequestError)
            assert "nested too deep" in found.message
    assert (depth > 64) is (server.requests == [])


async def in_map_of(client: AsyncGradient, call: dict[str, Any]) -> Any:
    (result,) = [result async for result in client.chat.completions.map([call])]
    return result.unwrap()


async def in_fan_out_of(client: AsyncGradient, call: dict[str, Any]) -> Any:
    try:
        async with client.chat.completions.fan_out(n=1, **call) as fan:
            return await fan.completion()
    except FanOutError as error:
        raise error.exceptions[0] from None


# The command line


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("as_json", [False, True])
def test_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str], depth: int, *, as_json: bool) -> None:
    files: list[str] = []
    for number, place in enumerate(PLACES):
        file = tmp_path / f"{number}.sse"
        file.write_bytes(
            sse(chunk("before "), put(place, depth, "arrays", "delta"), chunk(finish_reason="stop"))
        )
        files.append(str(file))
    main(["replay", *["--json"] * as_json, *files])
    printed, complaints = capsys.readouterr()
    assert complaints == ""
    assert len(files) <= len(printed.splitlines())


@pytest.mark.parametrize("depth", DEPTHS)
def test_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    """Requests of any depth, and results of any depth in the file of another run."""
    monkeypatch.setenv("COLUMNS", "80")
    deep = KINDS["objects"](depth)
    lines = [
        deep, f'{{"custom_id":{deep}}}', f'{{"body":{deep}}}', f'{{"method":{deep},"body":{{}}}}',
        f'{{"url":{deep},"body":{{}}}}', f'{{"messages":[{{"role":"user","content":"x","deep":{deep}}}]}}',
        f'{{"messages":[{{"role":"user","content":"x"}}],"deep":{deep}}}', f'{{"messages":{deep}}}',
        '{"messages":[{"role":"user","content":"Say: fine"}]}',
    ]  # fmt: skip
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines), "utf-8")
    assert 1 == main(["map", "--local", str(source), str(output)])
    rows = {row["line"]: row for row in map(json.loads, output.read_text("utf-8").splitlines())}
    assert set(range(1, 10)) == rows.keys()
    assert rows[9]["response"]["body"]["choices"]
    if depth > 64:
        errors = {row["error"]["type"] for row in rows.values() if row["error"]}
        assert errors <= {"InvalidRequestError", "BadLine"}
        assert 8 == sum(row["error"] is not None for row in rows.values())
    assert 1 == main(["map", "--local", "--retry-errors", str(source), str(output)])


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("as_json", [False, True])
def test_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], depth: int, *, as_json: bool
) -> None:
    monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "k")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    replies = [
        reply_sse(chunk("before "), put(place, depth, kind, "delta"), chunk(finish_reason="stop"))
        for place in PLACES
        for kind in KINDS
    ]
    running: Server = serve(*replies)
    with running as server:
        for _ in replies:
            code = main(
                ["chat", "--no-log", *["--json"] * as_json, "--base-url", f"{server.url}/v1", "Hello"]
            )
            printed, complaints = capsys.readouterr()
            assert "Traceback" not in complaints
            assert printed if code == 0 or not as_json else complaints
