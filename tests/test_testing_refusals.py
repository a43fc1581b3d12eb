"""What the simulated server refuses, and trouble on demand."""

from __future__ import annotations

import time
from typing import Any

import pytest
from test_testing_support import USER, Answer, ask, connect, request_bytes

from gradient_async.testing import serve

PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a place",
        "parameters": PLACE,
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": PLACE}}


async def model(prompt: str = "Hi", path: str = "/v1/chat/completions", **params: Any) -> Answer:
    """Ask a fresh simulated model."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **params}
    async with serve() as server:
        return await ask(server, path, body)


async def content(prompt: str = "Hi", **params: Any) -> str:
    text = (await model(prompt, **params)).json["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def assembled(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Put a stream together: for each choice what a completion would hold."""
    found: dict[int, dict[str, Any]] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        message: dict[str, Any] = found.setdefault(
            choice["index"],
            {"content": None, "reasoning_content": None, "calls": {}, "finish": None, "logprobs": []},
        )
        for name in ("content", "reasoning_content"):
            if choice["delta"].get(name) is not None:
                message[name] = (message[name] or "") + choice["delta"][name]
        for entry in choice["delta"].get("tool_calls", []):
            call = message["calls"].setdefault(entry["index"], {"id": entry.get("id"), "arguments": ""})
            call["name"] = entry["function"].get("name", call.get("name"))
            call["arguments"] += entry["function"]["arguments"]
        message["finish"] = choice["finish_reason"] or message["finish"]
        message["logprobs"] += (choice["logprobs"] or {"content": []})["content"]
    return found


class TestRefusals:
    @pytest.mark.parametrize(
        ("param", "value"),
        [
            ("model", None),
            ("model", ""),
            ("messages", None),
            ("messages", []),
            ("messages[0]", ["Hi"]),
            ("messages[1]", [*USER, {"role": "king"}]),
            ("temperature", 2.1),
            ("temperature", True),
            ("top_p", "1"),
            ("frequency_penalty", -3),
            ("presence_penalty", 3),
            ("n", 0),
            ("n", 129),
            ("n", True),
            ("n", 1.5),
            ("max_tokens", 0),
            ("max_completion_tokens", -1),
            ("top_logprobs", 21),
            ("top_logprobs", 3),
            ("logprobs", 1),
            ("stream", "yes"),
            ("parallel_tool_calls", 0),
            ("seed", 2**63),
            ("stop", []),
            ("stop", ""),
            ("stop", ["a"] * 5),
            ("stop", [1]),
            ("stream_options", {"include_usage": True}),
            ("stream_options", True),
            ("reasoning_effort", 1),
            ("response_format", "json"),
            ("response_format", {"type": "xml"}),
            ("response_format", {"type": "json_schema"}),
            ("response_format", {"type": "json_schema", "json_schema": {}}),
            ("tools", {"a": 1}),
            ("tools[0].function.name", [1]),
            ("tools[0].function.name", [{"type": "function"}]),
            ("tools[1].function.name", [WEATHER, {"type": "function", "function": {"name": "a b"}}]),
            ("tool_choice", "auto"),
        ],
    )
    async def test_invalid(self, param: str, value: Any) -> None:
        """What the API refuses is refused, in the shape of OpenAI's errors."""
        answer = await model(**{param.partition("[")[0]: value})
        assert 400 == answer.status
        error = answer.json["error"]
        assert (param, "invalid_request_error", None) == (error["param"], error["type"], error["code"])
        assert error["message"]

    @pytest.mark.parametrize("choice", ["any", {}, {"function": {"name": "other"}}])
    async def test_invalid_tool_choice(self, choice: Any) -> None:
        """A choice has to name a tool of the request."""
        assert "tool_choice" == (await model(tools=[WEATHER], tool_choice=choice)).json["error"]["param"]

    @pytest.mark.parametrize("body", [b"{", b"\xff", b"[1]"])
    async def test_no_object(self, body: bytes) -> None:
        """A body that is no JSON object is refused."""
        async with serve() as server:
            answer = await ask(server, body=body)
            assert (400, None) == (answer.status, answer.json["error"]["param"])

    async def test_tool_choice_none_without_tools(self) -> None:
        """What asks for nothing is not refused."""
        assert 200 == (await model(tool_choice="none")).status

    async def test_keys(self) -> None:
        """With keys, whoever brings another is refused in DigitalOcean's shape."""
        body = {"model": "m", "messages": USER}
        async with serve(keys=["k1", "k2"]) as server:
            for key in ("Bearer k1", "bearer  k2"):
                assert 200 == (await ask(server, body=body, authorization=key)).status
            for key in ("Bearer k", "Basic k1", "k1"):
                answer = await ask(server, body=body, authorization=key)
                assert (401, "unauthorized") == (answer.status, answer.json["id"])
            assert 401 == (await ask(server, "/v1/models")).status
            assert 200 == (await ask(server, "/health")).status

    async def test_models(self) -> None:
        """Models are listed; those that are not are refused where there is a list."""
        async with serve() as server:
            names = [entry["id"] for entry in (await ask(server, "/models")).json["data"]]
            assert "simulated" in names
        async with serve(models=["a", "b"]) as server:
            listed = (await ask(server, "/v1/models")).json
            assert ("list", ["a", "b"]) == (listed["object"], [entry["id"] for entry in listed["data"]])
            assert 200 == (await ask(server, body={"model": "b", "messages": USER})).status
            answer = await ask(server, body={"model": "c", "messages": USER})
            assert (404, "model_not_found") == (answer.status, answer.json["error"]["code"])
            assert 503 == (await ask(server, body={"model": "error-503", "messages": USER})).status

    async def test_routes(self) -> None:
        """Unknown paths and wrong methods are refused, HEAD without a body."""
        async with serve() as server, connect(server) as peer:
            assert {"status": "ok"} == (await peer.ask("/health")).json
            answer = await peer.ask("/v2")
            assert (404, "not_found") == (answer.status, answer.json["id"])
            answer = await peer.ask("/v1/chat/completions")
            assert (405, "POST") == (answer.status, answer.headers["allow"])
            await peer.send(b"HEAD /v1/models HTTP/1.1\r\n\r\n")
            assert (405, b"") == ((answer := await peer.answer()).status, answer.body)
            assert 200 == (await peer.ask("/health")).status

    async def test_headers(self) -> None:
        """Replies are numbered, and tell rate limits that fall and start over."""
        async with serve() as server, connect(server) as peer:
            seen = [(await peer.ask("/health")).headers for _ in range(251)]
            assert ["req-000001", "req-000002"] == [headers["x-request-id"] for headers in seen[:2]]
            left = [int(headers["x-ratelimit-remaining-requests"]) for headers in seen]
            assert [249, 248, 250, 249] == [*left[:2], *left[249:]]
            assert "5000000" == seen[0]["x-ratelimit-limit-tokens-per-day"]
            assert time.time() < int(seen[0]["x-ratelimit-reset-tokens-per-day"]) <= time.time() + 86_400


class TestTroubleOnDemand:
    @pytest.mark.parametrize(
        ("name", "status", "code"),
        [
            ("error-401", 401, "unauthorized"),
            ("error-429", 429, "too_many_requests"),
            ("error-418", 418, "bad_request"),
            ("error-529", 529, "server_error"),
            ("error-stream", 500, "server_error"),
        ],
    )
    async def test_status(self, name: str, status: int, code: str) -> None:
        """The name of the model asks for an error."""
        answer = await model(model=name)
        assert (status, code) == (answer.status, answer.json["id"])
        assert ("1" if status == 429 else None) == answer.headers.get("retry-after")

    @pytest.mark.parametrize("name", ["error-200", "error-4290", "error-", "my-error-429"])
    async def test_other_names(self, name: str) -> None:
        """Names that only look like it are names."""
        assert 200 == (await model(model=name)).status

    async def test_error_in_stream(self) -> None:
        """An error event comes in the middle of a stream."""
        *chunks, last = (await model(model="error-stream", stream=True)).chunks
        assert 5 == len(chunks)
        assert ("overloaded", "server_error") == (last["error"]["code"], last["error"]["type"])

    async def test_cut(self) -> None:
        """The connection breaks in the middle of a stream, or in place of a reply."""
        for stream in (True, False):
            with pytest.raises((ConnectionResetError, EOFError)):
                await model(model="error-cut", stream=stream)

    async def test_stall(self) -> None:
        """Silence falls in the middle of a stream, or in place of a reply."""
        async with serve() as server:
            for stream in (True, False):
                async with connect(server) as peer:
                    body = {"model": "error-stall", "messages": USER, "stream": stream}
                    await peer.send(request_bytes(body=body))
                    if stream:
                        await peer.head()
                        for _ in range(5):
                            await peer.chunk()
                    while not server.requests:
                        await peer.send(b"")
                    assert 1 == server.open_connections
                await server.wait_closed_connections()
