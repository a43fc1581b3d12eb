"""pydantic-ai, langchain-openai and instructor call the API through an `AsyncGradient`.

The packages are those of the extra ``peers``. ``.ci/run`` installs them into an environment of their own.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import gradient_async
from gradient_async import AsyncGradient
from gradient_async.testing import Reply, Server, chunk, completion, reply_json, reply_sse, serve

# The packages warn of their own dependencies.
pytestmark = pytest.mark.filterwarnings("default")

COUNT = [{"role": "user", "content": "Count to three."}]
ANN = '{"name": "Ann", "age": 12}'
KEY = "model-key-0123"


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """The simulated model; neither it nor the real OpenAI has a key in the environment."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    async with serve() as running:
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncGradient]:
    """A client of that server."""
    async with AsyncGradient(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
def adapted(client: AsyncGradient, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same client behind the adapter of the guide."""
    pytest.importorskip("openai", reason="openai is not installed")
    monkeypatch.syspath_prepend(  # pyright: ignore[reportUnknownMemberType]  # pytest does not say its type
        Path(__file__).parents[2] / "docs" / "examples"
    )
    return importlib.import_module("openai_adapter").OpenAIClient(client)


def refuse(status: int) -> Reply:
    """An error of the server."""
    return reply_json({"id": "refused", "message": "no"}, status)


def call_user(arguments: str) -> list[dict[str, Any]]:
    """A call of the tool that stands for a type of answers."""
    return [
        {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": "User", "arguments": arguments},
        }
    ]


def check_requests(server: Server, *streamed: bool) -> None:
    """Check which requests went out, and their key."""
    assert list(streamed) == [bool(request.json.get("stream")) for request in server.requests]
    assert {f"Bearer {KEY}"} == {request.headers["authorization"] for request in server.requests}


class TestAdapter:
    """``docs/examples/openai_adapter.py``."""

    async def test_awaited(self, adapted: Any, server: Server) -> None:
        """A completion is of openai's class and has all fields of the reply."""
        call = call_user(ANN)
        server.push(reply_json({**completion(None, tool_calls=call), "service_tier": "flex"}))
        reply = await adapted.chat.completions.create(model="m", messages=COUNT)
        assert "openai.types.chat.chat_completion" == type(reply).__module__
        assert "flex" == reply.service_tier
        assert reply.choices[0].message.content is None
        assert call[0]["function"] == reply.choices[0].message.tool_calls[0].function.to_dict()

    async def test_streamed(self, adapted: Any, client: AsyncGradient, server: Server) -> None:
        """A chunk is of openai's class and, with ``keep_body``, has all fields."""
        client.keep_body = True
        server.push(reply_sse(chunk("One", service_tier="flex"), chunk(finish_reason="stop")))
        async with await adapted.chat.completions.create(model="m", messages=COUNT, stream=True) as stream:
            first, last = [one async for one in stream]
        assert "openai.types.chat.chat_completion_chunk" == type(first).__module__
        assert ("One", "flex") == (first.choices[0].delta.content, first.service_tier)
        assert "stop" == last.choices[0].finish_reason


class TestPydanticAI:
    """``OpenAIProvider(openai_client=...)``."""

    @pytest.fixture
    def agent_of(self) -> Any:
        """Return an agent whose model uses a client."""
        pydantic_ai: Any = pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
        models: Any = pytest.importorskip("pydantic_ai.models.openai")
        providers: Any = pytest.importorskip("pydantic_ai.providers.openai")

        def make(client: Any, **options: Any) -> Any:
            provider = providers.OpenAIProvider(openai_client=client)
            return pydantic_ai.Agent(models.OpenAIChatModel("m", provider=provider), **options)

        return make

    async def test_awaited(self, agent_of: Any, adapted: Any, server: Server) -> None:
        result = await agent_of(adapted).run("Count to three.")
        assert "One, two, three." == result.output
        assert 6 == result.usage.output_tokens
        check_requests(server, False)

    async def test_streamed(self, agent_of: Any, adapted: Any, server: Server) -> None:
        async with agent_of(adapted).run_stream("Count to three.") as result:
            texts = [text async for text in result.stream_text(delta=True, debounce_by=None)]
        assert ["One", ",", " two", ",", " three", "."] == texts
        assert 6 == result.usage.output_tokens
        check_requests(server, True)

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_tools(self, agent_of: Any, adapted: Any, server: Server, *, streamed: bool) -> None:
        """The agent calls its tool with the model's arguments, and sends the results back."""
        agent = agent_of(adapted)
        places: list[str] = []

        @agent.tool_plain  # type: ignore[untyped-decorator, unused-ignore]
        def weather(place: str) -> str:  # pyright: ignore[reportUnusedFunction]
            places.append(place)
            return "sunny"

        question = "What is the weather in Paris and Rome?"
        if streamed:
            async with agent.run_stream(question) as result:
                answer = await result.get_output()
        else:
            answer = (await agent.run(question)).output
        assert ["Paris", "Rome"] == sorted(places)  # the agent runs them in threads
        assert "sunny; sunny" in answer
        check_requests(server, streamed, streamed)

    async def test_reasoning(self, agent_of: Any, adapted: Any, server: Server) -> None:
        server.push(reply_json(completion("Four.", reasoning_content="Two and two.")))
        (message,) = (await agent_of(adapted).run("Hi")).new_messages()[1:]
        assert ["Two and two.", "Four."] == [part.content for part in message.parts]

    async def test_errors_are_gradients(self, agent_of: Any, adapted: Any, server: Server) -> None:
        """An error is of ``gradient_async``; a fallback names the class."""
        server.push(refuse(401))
        with pytest.raises(gradient_async.AuthenticationError):
            await agent_of(adapted).run("Hi")

    async def test_fallback(self, agent_of: Any, adapted: Any, server: Server) -> None:
        fallback: Any = pytest.importorskip("pydantic_ai.models.fallback")
        server.push(refuse(503))
        agent = agent_of(adapted)
        agent.model = fallback.FallbackModel(
            agent.model, agent.model, fallback_on=(gradient_async.GradientError,)
        )
        assert "One, two, three." == (await agent.run("Count to three.")).output
        check_requests(server, False, False)

    async def test_openais_client(self, agent_of: Any, server: Server) -> None:
        """Without an adapter, openai's own client reaches the same server."""
        openai: Any = pytest.importorskip("openai")
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY) as client:
            assert "One, two, three." == (await agent_of(client).run("Count to three.")).output
        check_requests(server, False)

    async def test_why_there_is_an_adapter(self, agent_of: Any, client: AsyncGradient) -> None:
        """pydantic-ai takes only completions of openai's class."""
        with pytest.raises(Exception, match="expected JSON data"):
            await agent_of(client).run("Hi")


class TestLangChain:
    """``ChatOpenAI(async_client=...)``."""

    @pytest.fixture
    def model_of(self) -> Any:
        """Return a chat model that uses a client."""
        langchain: Any = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")

        def make(client: Any, **options: Any) -> Any:
            completions = client.chat.completions
            return langchain.ChatOpenAI(
                model="m", async_client=completions, root_async_client=client, client=completions, **options
            )

        return make

    async def test_awaited(self, model_of: Any, adapted: Any, server: Server) -> None:
        message = await model_of(adapted).ainvoke("Count to three.")
        assert "One, two, three." == message.content
        assert 6 == message.usage_metadata["output_tokens"]
        check_requests(server, False)

    async def test_streamed(self, model_of: Any, adapted: Any, server: Server) -> None:
        texts = [part.content async for part in model_of(adapted).astream("Count to three.")]
        assert "One, two, three." == "".join(texts)
        check_requests(server, True)

    async def test_streamed_with_headers(self, model_of: Any, adapted: Any, server: Server) -> None:
        """``include_response_headers`` goes through ``with_raw_response``."""
        model = model_of(adapted, include_response_headers=True)
        first, *_ = [part async for part in model.astream("Count to three.")]
        assert "text/event-stream" in first.response_metadata["headers"]["content-type"]

    @pytest.mark.parametrize("method", ["function_calling", "json_mode"])
    async def test_structured_output(self, method: str, model_of: Any, adapted: Any, server: Server) -> None:
        server.push(
            reply_json(completion(ANN) if method == "json_mode" else completion(tool_calls=call_user(ANN)))
        )
        pydantic: Any = pytest.importorskip("pydantic")
        wanted = pydantic.create_model("User", name=(str, ...), age=(int, ...))
        answer = await model_of(adapted).with_structured_output(wanted, method=method).ainvoke("Ann is 12")
        assert wanted(name="Ann", age=12) == answer

    async def test_structured_output_that_is_refused(
        self, model_of: Any, adapted: Any, server: Server
    ) -> None:
        """Neither a class as ``response_format``, which is the default, nor a stream is supported."""
        pydantic: Any = pytest.importorskip("pydantic")
        wanted = pydantic.create_model("User", name=(str, ...))
        with pytest.raises(gradient_async.InvalidRequestError, match="use parse"):
            await model_of(adapted).with_structured_output(wanted).ainvoke("Hi")
        with pytest.raises(AttributeError, match="beta"):
            async for _ in model_of(adapted).with_structured_output(wanted, method="json_mode").astream("Hi"):
                pass
        assert not server.requests

    async def test_fallback(self, model_of: Any, adapted: Any, server: Server) -> None:
        """Errors are of ``gradient_async``, and LangChain's fallbacks and retries catch them by default."""
        model = model_of(adapted)
        server.push(refuse(429), refuse(503))
        with pytest.raises(gradient_async.RateLimitError):
            await model.ainvoke("Hi")
        assert "One, two, three." == (await model.with_fallbacks([model]).ainvoke("Count to three.")).content

    async def test_synchronous_calls_reach_nobody(self, model_of: Any, adapted: Any, server: Server) -> None:
        """With ``client=``, ``invoke`` and ``stream`` are errors; without, they would be requests to OpenAI."""
        with pytest.raises(AttributeError, match="coroutine"):
            model_of(adapted).invoke("Hi")
        with pytest.raises(TypeError, match="coroutine"):
            next(model_of(adapted).stream("Hi"))
        assert not server.requests

    async def test_a_stream_needs_no_adapter(
        self, model_of: Any, client: AsyncGradient, server: Server
    ) -> None:
        texts = [part.content async for part in model_of(client).astream("Count to three.")]
        assert "One, two, three." == "".join(texts)
        check_requests(server, True)

    async def test_why_there_is_an_adapter(self, model_of: Any, client: AsyncGradient) -> None:
        """LangChain does not await ``parse()``, and takes only completions of openai's class."""
        with pytest.raises(ValueError, match="Unexpected response type"):
            await model_of(client).ainvoke("Hi")


class TestInstructor:
    """``instructor.patch(client)``."""

    @pytest.fixture
    def instructor(self) -> Any:
        """The package."""
        return pytest.importorskip("instructor", reason="instructor is not installed")

    @pytest.fixture
    def user(self, instructor: Any) -> Any:
        """A type of answers."""
        pydantic: Any = pytest.importorskip("pydantic")
        return pydantic.create_model("User", name=(str, ...), age=(int, ...))

    async def test_awaited(self, instructor: Any, user: Any, client: AsyncGradient, server: Server) -> None:
        """The same client, patched: with a type it gives an instance, without one a completion."""
        server.push(reply_json(completion(tool_calls=call_user(ANN))))
        patched = instructor.patch(client)
        assert id(client) == id(patched)
        answer = await patched.chat.completions.create(model="m", messages=COUNT, response_model=user)
        assert ("Ann", 12) == (answer.name, answer.age)
        reply = await patched.chat.completions.create(model="m", messages=COUNT)
        assert "One, two, three." == reply.choices[0].message.content
        check_requests(server, False, False)

    async def test_streamed(self, instructor: Any, user: Any, client: AsyncGradient, server: Server) -> None:
        """``create_partial`` yields the answer as it grows."""
        pieces = ['{"name": "An', 'n", "age"', ": 12}"]
        server.push(
            reply_sse(
                chunk(tool_calls=call_user("")),
                *(chunk(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in pieces),
                chunk(finish_reason="tool_calls"),
            )
        )
        wrapped = instructor.AsyncInstructor(
            client=client, create=instructor.patch(create=client.chat.completions.create)
        )
        answers = [
            (answer.name, answer.age)
            async for answer in wrapped.chat.completions.create_partial(
                model="m", messages=COUNT, response_model=user
            )
        ]
        assert ("Ann", None) in answers
        assert ("Ann", 12) == answers[-1]
        check_requests(server, True)

    async def test_asks_again(
        self, instructor: Any, user: Any, client: AsyncGradient, server: Server
    ) -> None:
        """An answer that does not validate is sent back with the reason."""
        wrong = '{"name": "Ann", "age": "old"}'
        for arguments in (wrong, ANN):
            server.push(reply_json(completion(tool_calls=call_user(arguments))))
        answer = await instructor.patch(client).chat.completions.create(
            model="m", messages=COUNT, response_model=user, max_retries=2
        )
        assert ("Ann", 12) == (answer.name, answer.age)
        sent = server.requests[-1].json["messages"]
        assert ["user", "assistant", "tool"] == [message["role"] for message in sent]
        assert wrong == sent[1]["tool_calls"][0]["function"]["arguments"]

    def test_why_not_from_openai(self, instructor: Any) -> None:
        """``from_openai`` takes only clients of openai's classes."""
        with pytest.raises(Exception, match="must be an instance of"):
            instructor.from_openai(AsyncGradient(api_key=KEY))
