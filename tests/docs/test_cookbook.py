"""The recipes of the cookbook: each is short, stands alone, and does what it says when a server fails."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import test_utils, web
from pages import ROOT, Block, blocks, run_blocks

from gradient_async import BadRequestError, OverloadedError, RateLimitError, StreamTruncatedError
from gradient_async.config import VARIABLES
from gradient_async.testing import (
    HOLD,
    Handler,
    ThreadedServer,
    chunk,
    completion,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
)

PAGE = ROOT / "docs" / "cookbook.md"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Count to five."}]}
CUT = reply_sse(chunk("One, "), done=False)
WHOLE = reply_sse(chunk("One, "), chunk("two."), chunk(finish_reason="stop"))
LONG = reply_sse(chunk("One, "), chunk(finish_reason="length"))
UNENDING = reply_writes([*reply_sse(chunk("One, "), done=False).steps[:-1], HOLD])
BUSY = reply_json({"message": "no room"}, 503, {"x-should-retry": "false"})
REFUSED = reply_json({"message": "no such parameter"}, 400)
Recipe = Callable[..., dict[str, Any]]


def recipes() -> dict[str, list[Block]]:
    """The blocks of each recipe, by its heading; those that all recipes share have the name ""."""
    lines = PAGE.read_text("utf-8").splitlines()
    headings = [(number, line[3:]) for number, line in enumerate(lines, 1) if line.startswith("## ")]
    found: dict[str, list[Block]] = {"": []}
    for block in blocks(PAGE, "python"):
        name = next((name for number, name in reversed(headings) if number < block.line), "")
        found.setdefault(name, []).append(block)
    return found


RECIPES = recipes()
SHARED = RECIPES.pop("")


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ThreadedServer]:
    """The simulated model, where a client without arguments finds it."""
    for names in VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with serve() as server:
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "any")
        monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", server.url)
        yield server


@pytest.fixture
def recipe(local: ThreadedServer) -> Recipe:
    """Run a recipe alone, and return what it defines. Its server gives these replies to what follows."""

    def run(name: str, *replies: Handler) -> dict[str, Any]:
        for module in {module for block in RECIPES[name] for module in block.missing}:
            pytest.importorskip(module)
        scope = run_blocks([*SHARED, *RECIPES[name]])
        local.requests.clear()
        local.push(*replies)
        return scope

    return run


@asynccontextmanager
async def asgi(app: Any) -> AsyncGenerator[str]:
    """Serve an application by uvicorn."""
    uvicorn: Any = pytest.importorskip("uvicorn")
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        listening.close()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_stands_alone(name: str, recipe: Recipe) -> None:
    """With the lines that all recipes share, a recipe needs nothing of the others."""
    recipe(name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_short(name: str) -> None:
    for block in RECIPES[name]:
        lines = [line for line in block.source.splitlines() if line.strip()]
        assert len(lines) < 25, f"line {block.line} of the page"


def test_a_broken_stream_is_asked_for_again(recipe: Recipe, local: ThreadedServer) -> None:
    whole_answer = recipe("Ask again when a stream breaks off", CUT, WHOLE, CUT, CUT)["whole_answer"]
    assert "One, two." == asyncio.run(whole_answer(**ASKED)).choices[0].message.content
    assert 2 == len(local.requests)
    with pytest.raises(StreamTruncatedError):
        asyncio.run(whole_answer(**ASKED))


def test_a_long_answer_is_continued(recipe: Recipe, local: ThreadedServer) -> None:
    first, last = completion("One, ", finish_reason="length"), completion("two.")
    name = "Continue an answer that was cut at the limit of tokens"
    long_answer = recipe(name, reply_json(first), reply_json(last), *[reply_json(first)] * 2)["long_answer"]
    assert "One, two." == asyncio.run(long_answer(ASKED["messages"], model="m"))
    assert ["user", "assistant", "user"] == [each["role"] for each in local.requests[1].json["messages"]]
    with pytest.raises(RuntimeError, match="not whole after 2 replies: 'One, One, '"):
        asyncio.run(long_answer(ASKED["messages"], 2, model="m"))


def test_errors_that_pass_are_asked_again(recipe: Recipe, local: ThreadedServer) -> None:
    later = reply_json({"message": "later"}, 503, {"x-should-retry": "false", "retry-after-ms": "1"})
    scope = recipe(
        "Ask again on any error", later, reply_json({"ok": True}), reply_json(completion("Two")), REFUSED
    )
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    scope["asyncio"] = SimpleNamespace(sleep=sleep)

    def ask() -> Any:
        return asyncio.run(scope["insist"](lambda: scope["stubborn"].chat.completions.create(**ASKED)))

    assert "Two" == ask().choices[0].message.content
    assert 3 == len(local.requests)
    with pytest.raises(BadRequestError):
        ask()
    assert 4 == len(local.requests)
    assert [0.001, 4] == waited


def test_another_model_answers_before_the_first_token_only(recipe: Recipe, local: ThreadedServer) -> None:
    ask = recipe("Fall back to another model", BUSY, CUT, reply_sse(done=False), WHOLE, BUSY, BUSY)["ask"]
    for shown, error in (["One, "], StreamTruncatedError), (["One, ", "two."], None), ([], OverloadedError):
        pieces: list[str] = []
        work = ask(["a", "b"], pieces.append, messages=ASKED["messages"])
        if error is None:
            asyncio.run(work)
        else:
            with pytest.raises(error):
                asyncio.run(work)
        assert shown == pieces
    assert ["a", "b"] * 3 == [request.json["model"] for request in local.requests]


def test_a_conversation_survives_an_error(recipe: Recipe) -> None:
    cut = completion("One", finish_reason="length")
    scope = recipe("Keep a conversation", REFUSED, reply_json(completion("Yes")), reply_json(cut))
    talk = scope["Conversation"]("Be brief.")
    with pytest.raises(BadRequestError):
        asyncio.run(talk.say("Lost"))
    assert "Yes" == asyncio.run(talk.say("Kept"))
    assert "One [cut]" == asyncio.run(talk.say("Long"))
    told: list[Any] = [
        message["content"] if isinstance(message, dict) else message.content for message in talk.messages
    ]
    assert ["Be brief.", "Kept", "Yes", "Long", "One"] == told


def test_a_trimmed_history_keeps_calls_and_results_together(recipe: Recipe) -> None:
    trimmed = recipe("Trim the history")["trimmed"]
    system = {"role": "system", "content": "Be brief."}
    old = [{"role": "user", "content": "Old"}, {"role": "assistant", "content": "x" * 100}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = [
        {"role": "user", "content": "Call"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Result"},
        {"role": "assistant", "content": "Done"},
    ]
    for size in range(1, 600):
        assert trimmed([system, *old, *turn], size) in ([system, *turn], [system, *old, *turn])
    assert [system, *turn] == trimmed([system, *old, *turn], 1)
    assert [system, *old, *turn] == trimmed([system, *old, *turn], 10_000)
    assert [system] == trimmed([system], 1)


def test_calls_of_unknown_cost_are_counted(recipe: Recipe) -> None:
    scope = recipe("Count what calls cost", CUT)
    cost: Any = scope["cost"]
    before: float = cost.dollars

    async def ask() -> None:
        async with scope["counted"].chat.completions.stream(**ASKED | {"model": scope["model"]}) as stream:
            await stream.completion()

    with pytest.raises(StreamTruncatedError):
        asyncio.run(ask())
    assert (before, 1) == (cost.dollars, cost.unknown)
    asyncio.run(ask())
    assert (2 * before, 1) == (cost.dollars, cost.unknown)


def test_only_whole_answers_are_cached(recipe: Recipe, local: ThreadedServer) -> None:
    cut = completion("One", finish_reason="length")
    cached = recipe("Cache answers", reply_json(cut), reply_json(completion("Whole")))["cached"]
    asked = {"model": "m", "messages": [completion("Hello")["choices"][0]["message"], *ASKED["messages"]]}
    texts = [asyncio.run(cached(**asked)).choices[0].message.content for _ in range(3)]
    assert ["One", "Whole", "Whole"] == texts
    assert 2 == len(local.requests)


def by_aiohttp(handler: Any) -> Any:
    app = web.Application()
    app.router.add_route("*", "/chat", handler)
    return test_utils.TestServer(app, handler_cancellation=True)


@pytest.mark.parametrize("framework", ["aiohttp", "fastapi"])
def test_events_say_how_the_answer_ended(framework: str, recipe: Recipe, local: ThreadedServer) -> None:
    scope = recipe("Stream to Server-Sent Events", WHOLE, LONG, CUT, REFUSED, UNENDING)

    async def visit(url: str) -> None:
        ended: list[str] = []
        async with aiohttp.ClientSession() as browser:
            for _ in range(4):
                async with browser.post(f"{url}/chat", json={"messages": ASKED["messages"]}) as reply:
                    assert "text/event-stream" == reply.content_type
                    ended.append((await reply.text()).strip().split("\n\n")[-1])
            async with browser.post(f"{url}/chat", json={"messages": ASKED["messages"]}) as reply:
                assert b'event: text\ndata: "One, "\n\n' == await reply.content.readany()
            await asyncio.to_thread(local.wait_closed_connections, 1, timeout=5.0)
        assert [
            'event: end\ndata: "stop"',
            'event: end\ndata: "length"',
            'event: error\ndata: "StreamTruncatedError"',
            'event: error\ndata: "BadRequestError"',
        ] == ended

    async def main() -> None:
        if framework == "fastapi":
            async with asgi(scope["app"]) as url:
                await visit(url)
        else:
            async with by_aiohttp(scope["answer"]) as server:
                await visit(str(server.make_url("")).rstrip("/"))
        await scope["client"].close()

    asyncio.run(main())


def test_a_new_question_or_leaving_stops_the_answer(recipe: Recipe, local: ThreadedServer) -> None:
    scope = recipe("Stream to a WebSocket", WHOLE, CUT, UNENDING, WHOLE, UNENDING)

    async def main() -> None:
        async with by_aiohttp(scope["converse"]) as server, aiohttp.ClientSession() as browser:
            async with browser.ws_connect(server.make_url("/chat")) as visitor:

                async def ask() -> list[str]:
                    await visitor.send_str("Count")
                    return [await visitor.receive_str()]

                async def rest(told: list[str]) -> list[Any]:
                    while "text" in told[-1]:
                        told.append(await visitor.receive_str())
                    return [json.loads(each) for each in told]

                assert [{"text": "One, "}, {"text": "two."}, {"end": "stop"}] == await rest(await ask())
                assert [{"text": "One, "}, {"error": "StreamTruncatedError"}] == await rest(await ask())
                await ask()
                assert [{"text": "One, "}, {"text": "two."}, {"end": "stop"}] == await rest(await ask())
                await asyncio.to_thread(local.wait_closed_connections, 1, timeout=5.0)
                await ask()
            await asyncio.to_thread(local.wait_closed_connections, 1, timeout=5.0)
            await scope["client"].close()

    asyncio.run(main())


@pytest.fixture(scope="session")
def django() -> Any:
    """Django with the least settings."""
    found: Any = pytest.importorskip("django")
    conf: Any = pytest.importorskip("django.conf")
    conf.settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=ModuleType("urls"), SECRET_KEY="any")
    found.setup()
    return found


def test_django_streams_under_asgi(django: Any, recipe: Recipe, local: ThreadedServer) -> None:
    scope = recipe("Django", WHOLE, LONG, REFUSED, CUT, UNENDING)
    urls: Any = pytest.importorskip("django.urls")
    handlers: Any = pytest.importorskip("django.core.handlers.asgi")
    settings: Any = pytest.importorskip("django.conf").settings
    settings.ROOT_URLCONF.urlpatterns = [urls.path("chat", scope["stream_view"])]

    async def main() -> None:
        async with asgi(handlers.ASGIHandler()) as url, aiohttp.ClientSession() as browser:
            asked = {"messages": ASKED["messages"]}
            for status, text in (
                (200, "One, two."),
                (200, "One,  [cut]"),
                (502, '{"error": "BadRequestError"}'),
            ):
                async with browser.post(f"{url}/chat", json=asked) as reply:
                    assert (status, text) == (reply.status, await reply.text())
            with pytest.raises(aiohttp.ClientPayloadError):  # a text that was cut does not look whole
                async with browser.post(f"{url}/chat", json=asked) as reply:
                    await reply.text()
            async with browser.post(f"{url}/chat", json=asked) as reply:
                assert b"One, " == await reply.content.readany()
            await asyncio.to_thread(local.wait_closed_connections, 1, timeout=5.0)
        await scope["client"].close()

    asyncio.run(main())


def test_django_answers_under_wsgi(django: Any, recipe: Recipe) -> None:
    scope = recipe("Django", reply_json(completion("One", finish_reason="length")), REFUSED)
    factory: Any = pytest.importorskip("django.test").RequestFactory()
    replies = [
        scope["view"](factory.post("/", json.dumps(ASKED), content_type="application/json")) for _ in range(2)
    ]
    assert [(200, {"text": "One", "cut": True}), (502, {"error": "BadRequestError"})] == [
        (reply.status_code, json.loads(reply.content)) for reply in replies
    ]
    scope["plain"].close()


def test_a_task_is_tried_again(recipe: Recipe, local: ThreadedServer) -> None:
    busy = reply_json({"message": "later"}, 429, {"retry-after": "30"})
    cut = completion("One", finish_reason="length")
    scope = recipe("Celery", busy, reply_json(completion("Short")), reply_json(cut), *[busy] * 6)
    assert "Short" == scope["sum_up"].apply(args=["A story"]).get()
    assert 2 == len(local.requests)
    with pytest.raises(ValueError, match="cut at max_tokens"):
        scope["sum_up"].apply(args=["A story"]).get()
    with pytest.raises(RateLimitError):
        scope["sum_up"].apply(args=["A story"]).get()
    assert 9 == len(local.requests)
    scope["worker_client"].close()


def test_a_function_of_lambda_ends_in_time(recipe: Recipe) -> None:
    cut = completion("One", finish_reason="length")
    scope = recipe(
        "AWS Lambda", reply_json(completion("Short")), reply_json(cut), REFUSED, reply_writes([HOLD])
    )
    event = {"body": json.dumps({"messages": ASKED["messages"]})}

    def call(milliseconds: int) -> tuple[int, Any]:
        context = SimpleNamespace(get_remaining_time_in_millis=lambda: milliseconds)
        reply = scope["handler"](event, context)
        return reply["statusCode"], json.loads(reply["body"])

    assert (200, {"text": "Short", "cut": False}) == call(60_000)
    assert (200, {"text": "One", "cut": True}) == call(60_000)
    assert (502, {"error": "BadRequestError"}) == call(60_000)
    assert (502, {"error": "APITimeoutError"}) == call(1_100)
    scope["lambda_client"].close()
