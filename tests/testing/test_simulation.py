"""The simulated model: its parameters, refusals, and trouble on demand."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from peer import USER, Answer, ask, connect, request_bytes

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
    """Ask a new simulated model."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **params}
    async with serve() as server:
        return await ask(server, path, body)


async def content(prompt: str = "Hi", **params: Any) -> str:
    text = (await model(prompt, **params)).json["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def assembled(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Assemble a stream: return the content, calls and logprobs of each choice."""
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


class TestReplies:
    async def test_default(self) -> None:
        """Any prompt is answered by a few sentences that repeat it, and the usage adds up."""
        reply = (await model("What is love?")).json
        (choice,) = reply["choices"]
        assert "What is love" in choice["message"]["content"]
        assert ("chat.completion", "m", "stop", None) == (
            reply["object"],
            reply["model"],
            choice["finish_reason"],
            choice["logprobs"],
        )
        usage = reply["usage"]
        assert 20 <= usage["completion_tokens"] <= 60
        assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
        assert 0 == usage["cache_read_input_tokens"]
        assert 0 == usage["cache_creation"]["ephemeral_5m_input_tokens"]

    async def test_deterministic(self) -> None:
        """The same request brings the same reply; seed and temperature vary it; temperature 0 ignores the seed."""
        prompt = "What is love?"
        assert (await model(prompt)).body == (await model(prompt)).body
        assert 1 < len({await content(prompt, seed=seed) for seed in range(4)})
        assert 1 < len({await content(prompt, temperature=heat) for heat in (0.5, 1, 1.5, 2)})
        assert 1 == len({await content(prompt, seed=seed, temperature=0) for seed in range(4)})

    @pytest.mark.parametrize(
        ("prompt", "expected"),
        [
            ("Say: one\ntwo", "one\ntwo"),
            ("Count to three", "One, two, three."),
            ("please count from one to 4!", "1, 2, 3, 4."),
            ("count to infinity", "I can count to twenty in words, or to 1000 in digits."),
            ("Count to zero", "I can count to twenty in words, or to 1000 in digits."),
            ("hello there", "Hello! I am a simulated model on your own machine. What would you like to try?"),
        ],
    )
    async def test_known_prompts(self, prompt: str, expected: str) -> None:
        """Some prompts have replies that a test can rely on word by word."""
        assert expected == await content(prompt)

    async def test_length_on_demand(self) -> None:
        """A prompt can ask for a number of words; a story is longer than other replies."""
        assert 500 == len((await content("Write 500 words")).split())
        assert 150 < (await model("Tell me a story")).json["usage"]["completion_tokens"] < 300

    async def test_odd_prompts(self) -> None:
        """A reply repeats the beginning of a long prompt, and can do without a prompt."""
        text = await content("word " * 50)
        assert " word …" in text
        assert 300 > len(text)
        assert "nothing in particular" in await content("?")
        assert "nothing in particular" in await content(messages=[{"role": "system", "content": "x"}])

    async def test_content_in_parts(self) -> None:
        """Content may be a string, a part, or a list of both."""
        image = {"type": "image_url", "image_url": {"url": "https://example.com/lamp.jpg"}}
        parts = ["Say:", {"type": "text", "text": "yes"}, image]
        assert "yes" == await content(messages=[{"role": "user", "content": parts}])
        assert "yes" == await content(messages=[{"role": "user", "content": {"text": "Say: yes"}}])

    async def test_agent(self) -> None:
        """An agent needs no model, and adds the information that the request asks for."""
        wanted = {f"include_{name}_info": True for name in ("retrieval", "functions", "guardrails")}
        body = {"messages": USER}
        async with serve() as server:
            for path in ("/api/v1/chat/completions?agent=true", "/chat/completions?agent=true"):
                reply = (await ask(server, path, {**body, **wanted})).json
                assert "simulated-agent" == reply["model"]
                assert 1 == len(reply["retrieval"]["retrieved_data"])
                assert {"called_functions": []} == reply["functions"]
                assert {"triggered_guardrails": []} == reply["guardrails"]
                assert "retrieval" not in (await ask(server, path, body)).json
            tools = {
                "messages": [{"role": "user", "content": "Weather in Rome?"}],
                "tools": [WEATHER],
                "stream": True,
            }
            *_, last = (await ask(server, path, {**tools, **wanted})).chunks
            assert {"called_functions": ["get_weather"]} == last["functions"]


class TestStreams:
    async def test_shape(self) -> None:
        """A stream is a role, one token a chunk, a finish_reason, and [DONE]."""
        chunks = (await model("Say: one, two", stream=True)).chunks
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert {"role": "assistant", "content": ""} == deltas[0]
        assert [{"content": token} for token in ("one", ",", " two")] == deltas[1:-1]
        assert ({}, "stop") == (deltas[-1], chunks[-1]["choices"][0]["finish_reason"])
        assert {"chat.completion.chunk"} == {chunk["object"] for chunk in chunks}
        assert 1 == len({chunk["id"] for chunk in chunks})
        assert "usage" not in chunks[0]

    @pytest.mark.parametrize(
        "params",
        [
            {"n": 3},
            {"logprobs": True, "top_logprobs": 2},
            {"reasoning_effort": "low", "max_tokens": 20},
            {"tools": [WEATHER]},
            {"tools": [WEATHER], "max_tokens": 3},
            {"stop": " a"},
        ],
    )
    async def test_same_as_whole(self, params: dict[str, Any]) -> None:
        """Streamed or whole, the reply is the same."""
        streamed = (
            await model("About emoji?", stream=True, stream_options={"include_usage": True}, **params)
        ).chunks
        whole = (await model("About emoji?", **params)).json
        found = assembled(streamed)
        assert len(found) == len(whole["choices"])
        for choice in whole["choices"]:
            other, message = found[choice["index"]], choice["message"]
            calls = [{**call["function"], "id": call["id"]} for call in message.get("tool_calls", [])]
            assert message["content"] == other["content"]
            assert message.get("reasoning_content") == other["reasoning_content"]
            assert calls == [other["calls"][index] for index in sorted(other["calls"])]
            assert choice["finish_reason"] == other["finish"]
            assert (choice["logprobs"] or {"content": []})["content"] == other["logprobs"]
        assert ([], whole["usage"]) == (streamed[-1]["choices"], streamed[-1]["usage"])
        assert {None} == {chunk["usage"] for chunk in streamed[:-1]}

    async def test_choices_interleaved(self) -> None:
        """Several choices come in turn, and each differs from the others."""
        reply = (await model("Count to three", n=3, stream=True)).chunks
        assert [0, 1, 2, 0, 1, 2] == [chunk["choices"][0]["index"] for chunk in reply[:6]]
        choices = (await model("What is love?", n=128)).json["choices"]
        assert 128 == len({choice["message"]["content"] for choice in choices})
        texts = [choice["content"] for choice in assembled(reply).values()]
        assert ["One, two, three.", "One, two, three. (version 2)", "One, two, three. (version 3)"] == texts

    async def test_delay(self) -> None:
        """`delay` keeps tokens apart."""
        async with serve(delay=0.01) as server:
            began = time.monotonic()
            body = {"model": "m", "messages": [{"role": "user", "content": "Say: a b c"}], "stream": True}
            assert 5 == len((await ask(server, body=body)).chunks)
            assert 0.03 < time.monotonic() - began

    async def test_http10(self) -> None:
        """A client of HTTP/1.0 gets the stream without chunks, up to the close."""
        async with serve() as server, connect(server) as peer:
            body = {"model": "m", "messages": USER, "stream": True}
            await peer.send(request_bytes(body=body).replace(b"HTTP/1.1", b"HTTP/1.0"))
            answer = await peer.answer()
            assert "close" == answer.headers["connection"]
            assert "stop" == answer.chunks[-1]["choices"][0]["finish_reason"]


class TestParameters:
    @pytest.mark.parametrize("stop", [" three", [" five", " three"]])
    async def test_stop(self, stop: Any) -> None:
        """Text ends before the first stop sequence."""
        reply = (await model("Count to ten", stop=stop)).json["choices"][0]
        assert ("One, two,", "stop") == (reply["message"]["content"], reply["finish_reason"])

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    async def test_length(self, name: str) -> None:
        """A reply has no more tokens than the limit."""
        params: dict[str, Any] = {name: 3}
        reply = (await model("Count to ten", **params)).json
        choice = reply["choices"][0]
        assert ("One, two", "length") == (choice["message"]["content"], choice["finish_reason"])
        assert 3 == reply["usage"]["completion_tokens"]
        assert "stop" == (await model("Say: one two three", **params)).json["choices"][0]["finish_reason"]

    async def test_length_within_a_character(self) -> None:
        """A limit never leaves half a character."""
        assert "Gladly:" == await content("emoji", max_tokens=3)
        assert "Gladly: 👋" == await content("emoji", max_tokens=4)

    @pytest.mark.parametrize("top", [0, 1, 5, 20])
    async def test_logprobs(self, top: int) -> None:
        """Each token has its bytes and its probability; the sorted candidates include the sampled token."""
        choice = (await model("emoji", logprobs=True, top_logprobs=top)).json["choices"][0]
        entries = choice["logprobs"]["content"]
        data = b"".join(bytes(entry["bytes"]) for entry in entries)
        assert choice["message"]["content"] == data.decode()
        for entry in entries:
            candidates = entry.pop("top_logprobs")
            chances = [candidate["logprob"] for candidate in candidates]
            assert top == len(candidates) == len({candidate["token"] for candidate in candidates})
            assert sorted(chances, reverse=True) == chances
            assert all(chance <= 0 for chance in chances)
            assert entry["logprob"] <= 0
            assert entry in candidates or top == 0
        assert "bytes:\\x91\\x8b" in [entry["token"] for entry in entries]
        sampled_first = [entry["logprob"] > -1.05 for entry in entries]
        assert (top < 2) <= all(sampled_first)

    async def test_logprobs_without_candidates(self) -> None:
        """Without top_logprobs there are no candidates."""
        entries = (await model(logprobs=True)).json["choices"][0]["logprobs"]["content"]
        assert {0} == {len(entry["top_logprobs"]) for entry in entries}

    @pytest.mark.parametrize(("effort", "tokens"), [("none", 0), ("low", 1), ("high", 30)])
    async def test_reasoning(self, effort: str, tokens: int) -> None:
        """The model reasons before it answers, the longer the higher the effort."""
        reply = (await model(reasoning_effort=effort)).json
        thoughts = reply["choices"][0]["message"].get("reasoning_content", "")
        assert bool(tokens) == bool(thoughts)
        assert tokens <= reply["usage"]["completion_tokens_details"]["reasoning_tokens"]
        names = [
            set(chunk["choices"][0]["delta"])
            for chunk in (await model(reasoning_effort=effort, stream=True)).chunks
        ]
        assert sorted(names[1:-1], key=str, reverse=True) == names[1:-1]

    async def test_json(self) -> None:
        """JSON is valid, and fits the schema where there is one."""
        assert {"reply": "one"} == json.loads(
            await content("Say: one", response_format={"type": "json_object"})
        )
        schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        text = await content("Where is Rome for 3 days in May?", response_format=wanted)
        assert {"city": "May", "days": 3} == json.loads(text)
        assert "one" == await content("Say: one", response_format={"type": "text"})


class TestTools:
    async def test_call(self) -> None:
        """A question brings a call, its arguments in several pieces; the result brings text."""
        prompt = "How is the weather in New York?"
        chunks = (await model(prompt, tools=[CLOCK, WEATHER], stream=True)).chunks
        (call,) = assembled(chunks)[0]["calls"].values()
        assert ("get_weather", {"city": "New York"}) == (call["name"], json.loads(call["arguments"]))
        assert "tool_calls" == chunks[-1]["choices"][0]["finish_reason"]
        assert 2 < sum("tool_calls" in chunk["choices"][0]["delta"] for chunk in chunks)
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
            {"role": "tool", "tool_call_id": "2", "content": "12:00"},
        ]
        expected = "According to the tools: sunny; 12:00. That should answer your question."
        assert expected == await content(messages=messages, tools=[WEATHER])
        assert expected == await content(messages=messages[2:])

    async def test_parallel(self) -> None:
        """Two things joined by "and" are two calls, unless parallel calls are forbidden."""
        prompt = "Weather in Paris and the time in Tokyo?"
        calls = (await model(prompt, tools=[WEATHER, CLOCK])).json["choices"][0]["message"]["tool_calls"]
        assert [("get_weather", '{"city":"Paris"}'), ("get_time", '{"city":"Tokyo"}')] == [
            (call["function"]["name"], call["function"]["arguments"]) for call in calls
        ]
        assert 2 == len({call["id"] for call in calls})
        single = await model(prompt, tools=[WEATHER], parallel_tool_calls=False)
        assert 1 == len(single.json["choices"][0]["message"]["tool_calls"])

    @pytest.mark.parametrize("parameters", [None, {}])
    async def test_no_parameters(self, parameters: Any) -> None:
        """A tool without parameters is called with an empty object."""
        tool = {"type": "function", "function": {"name": "get_time", "parameters": parameters}}
        (call,) = (await model("What time is it?", tools=[tool])).json["choices"][0]["message"]["tool_calls"]
        assert "{}" == call["function"]["arguments"]

    async def test_same_tool_twice(self) -> None:
        """A part of the question that suits no tool goes to the tool of the whole question."""
        reply = await model("What is the weather in Paris and London?", tools=[CLOCK, WEATHER], n=2)
        first, second = (choice["message"]["tool_calls"] for choice in reply.json["choices"])
        assert [("get_weather", '{"city":"Paris"}'), ("get_weather", '{"city":"London"}')] == [
            (call["function"]["name"], call["function"]["arguments"]) for call in first
        ]
        assert not {call["id"] for call in first} & {call["id"] for call in second}

    async def test_choice(self) -> None:
        """tool_choice forbids, allows, demands, or names."""
        for choice, finish in (("none", "stop"), ("auto", "tool_calls"), ("required", "tool_calls")):
            reply = (await model(tools=[WEATHER], tool_choice=choice)).json["choices"][0]
            assert finish == reply["finish_reason"]
        named = {"type": "function", "function": {"name": "get_time"}}
        reply = (await model("The weather?", tools=[WEATHER, CLOCK], tool_choice=named)).json["choices"][0]
        assert "get_time" == reply["message"]["tool_calls"][0]["function"]["name"]
        messages = [{"role": "tool", "tool_call_id": "1", "content": "x"}]
        reply = (await model(messages=messages, tools=[WEATHER], tool_choice="required")).json["choices"][0]
        assert "tool_calls" == reply["finish_reason"]

    async def test_allowed_and_custom_tools(self) -> None:
        """Allowed tools restrict the calls; custom tools are accepted and never called."""
        custom = {"type": "custom", "custom": {"name": "grep"}}
        time = {"type": "function", "function": {"name": "get_time"}}
        for mode in ("required", "auto"):
            choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [custom, time]}}
            reply = await model("The weather in Rome?", tools=[WEATHER, custom, CLOCK], tool_choice=choice)
            (call,) = reply.json["choices"][0]["message"]["tool_calls"]
            assert "get_time" == call["function"]["name"]
        assert 200 == (await model(tools=[custom])).status


class TestRefusals:
    @pytest.mark.parametrize(
        ("param", "value"),
        [
            ("model", None),
            ("model", ""),
            ("messages", None),
            ("messages", []),
            ("messages[0]", ["Hi"]),
            ("messages[1].role", [*USER, {"role": "usr"}]),
            (
                "messages[0].content[1].image_url",
                [
                    {
                        "role": "user",
                        "content": ["Hi", {"type": "image_url", "image_url": "https://a.example"}],
                    }
                ],
            ),
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
            ("stop[0]", [1]),
            ("stream_options", {"include_usage": True}),
            ("stream_options", True),
            ("reasoning_effort", 1),
            ("response_format", "json"),
            ("response_format.type", {"type": "xml"}),
            ("response_format", {"type": "json_schema"}),
            ("response_format.json_schema", {"type": "json_schema", "json_schema": {}}),
            ("tools", {"a": 1}),
            ("tools[0]", [1]),
            ("tools[0]", [{"type": "function"}]),
            ("tools[1].function.name", [WEATHER, {"type": "function", "function": {"name": "a b"}}]),
            ("tool_choice", "auto"),
        ],
    )
    async def test_invalid(self, param: str, value: Any) -> None:
        """Invalid requests are refused as the API does, with an error in OpenAI's shape."""
        answer = await model(**{re.split(r"[.\[]", param)[0]: value})
        assert 400 == answer.status
        error = answer.json["error"]
        assert (param, "invalid_request_error", None) == (error["param"], error["type"], error["code"])
        assert error["message"]

    @pytest.mark.parametrize(
        "choice",
        [
            *(
                "any",
                {},
                {"function": {"name": "other"}},
                {"type": "function", "function": {"name": "other"}},
            ),
            {"type": "custom", "custom": {"name": "get_weather"}},
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
        ],
    )
    async def test_invalid_tool_choice(self, choice: Any) -> None:
        """A choice has to name a tool of the request."""
        assert "tool_choice" == (await model(tools=[WEATHER], tool_choice=choice)).json["error"]["param"]

    @pytest.mark.parametrize("body", [b"{", b"\xff", b"[1]", b"[" * 100_000])
    async def test_no_object(self, body: bytes) -> None:
        """A body that is no JSON object is refused."""
        async with serve() as server:
            answer = await ask(server, body=body)
            assert (400, None) == (answer.status, answer.json["error"]["param"])

    async def test_tool_choice_none_without_tools(self) -> None:
        """tool_choice none needs no tools."""
        assert 200 == (await model(tool_choice="none")).status


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
        """Names that resemble these are ordinary names."""
        assert 200 == (await model(model=name)).status

    async def test_error_in_stream(self) -> None:
        """An error event comes in the middle of a stream."""
        *chunks, last = (await model(model="error-stream", stream=True)).chunks
        assert 5 == len(chunks)
        assert ("overloaded", "server_error") == (last["error"]["code"], last["error"]["type"])

    @pytest.mark.parametrize("name", ["error-stream", "error-cut"])
    async def test_short_answers(self, name: str) -> None:
        """An answer of one word is not whole either."""
        body = {"model": name, "messages": [{"role": "user", "content": "Say: yes"}], "stream": True}
        async with serve() as server, connect(server) as peer:
            await peer.send(request_bytes(body=body))
            await peer.head()
            received = await peer.chunk() + await peer.chunk()
            assert b'"yes"' in received
            assert b'"stop"' not in received
            if name == "error-cut":
                with pytest.raises((ConnectionResetError, EOFError)):
                    await peer.chunk()
            else:
                assert b"overloaded" in await peer.chunk()

    async def test_cut(self) -> None:
        """The connection breaks in the middle of a stream, or in place of a reply."""
        for stream in (True, False):
            with pytest.raises((ConnectionResetError, EOFError)):
                await model(model="error-cut", stream=stream)

    async def test_stall(self) -> None:
        """The server falls silent in the middle of a stream, or in place of a reply."""
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
