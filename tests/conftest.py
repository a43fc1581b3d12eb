"""A client and a local server that answers as a test says."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import time
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import aiohttp.client_proto
import aiohttp.http_parser
import pytest
import ray_rows
import uvloop
from chat_page import ChatPage, ServePage
from chromium import drive
from example_services import SERVICES, point_at
from hypothesis import settings
from virtual_time import VirtualLoop

from gradient_async import AsyncGradient
from gradient_async.session import aiohttp_internals
from gradient_async.testing import Handler, Server, ThreadedServer, serve

Start = Callable[..., Awaitable[tuple[Server, AsyncGradient]]]

# A shell starts what runs in the background with SIGINT ignored. The programs that tests start and interrupt would
# inherit that, and never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, so that what a run shows is not left to chance; `--hypothesis-profile random`
# looks for others.
settings.register_profile("steady", derandomize=True)
settings.register_profile("random", print_blob=True)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--uvloop", action="store_true", help="run coroutines under uvloop in place of asyncio")
    parser.addoption(
        "--public-aiohttp", action="store_true", help="use nothing that aiohttp does not document"
    )
    parser.addoption("--pictures", metavar="DIR", help="folder to write the pictures of the documentation to")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--public-aiohttp"):
        aiohttp_internals.enabled = False


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of Ray with two CPUs. The paths of its sockets must be short."""
    cluster = ray_rows.connect(
        num_cpus=2,
        object_store_memory=75 * 2**20,
        include_dashboard=False,
        _temp_dir=str(tmp_path_factory.mktemp("r")),
    )
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser, as a driver of Selenium."""
    with drive(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(chromium: Any) -> Iterator[ChatPage]:
    """The page of docs/examples; it is in a tab of its own as soon as it is opened."""
    page = ChatPage(chromium)
    yield page
    page.close()


@pytest.fixture(params=["aiohttp"])
def serve_page(
    request: pytest.FixtureRequest, page: ChatPage, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServePage]:
    """Start a model with a script and a service in front of it, and open the page; return the model."""
    portals: Any = pytest.importorskip("anyio.from_thread")
    with ExitStack() as stack:

        def started(*replies: Handler, handler: Handler | None = None) -> ThreadedServer:
            model = stack.enter_context(serve(*replies, handler=handler))
            point_at(monkeypatch, model.url)
            portal = stack.enter_context(portals.start_blocking_portal())
            page.open(stack.enter_context(portal.wrap_async_context_manager(SERVICES[request.param]())))
            return model

        yield started
        page.close()  # open streams would hold up the end of the service


@pytest.fixture
def needs_asyncio(request: pytest.FixtureRequest) -> None:
    """Skip what depends on how asyncio's own event loop works."""
    if request.config.getoption("--uvloop"):
        pytest.skip("uvloop works otherwise here")


@pytest.fixture
def needs_internals() -> None:
    """Skip what only aiohttp's internals make possible where the switch is off."""
    if not aiohttp_internals.enabled:
        pytest.skip("what aiohttp documents does not suffice for this")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], AbstractEventLoop]]:
    """Choose the event loop."""
    if "virtual_time" in getattr(item, "fixturenames", ()):
        return {"loop": VirtualLoop}
    return {"loop": uvloop.new_event_loop if config.getoption("uvloop") else asyncio.new_event_loop}


def pytest_collection_finish() -> None:
    """Keep thousands of tests out of each collection of garbage, which would hold up what is timed."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["parser in C", "parser in Python"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with each of aiohttp's two parsers of replies.

    The parser in Python takes the public path, as it does where aiohttp was installed without its parser in C.
    """
    if request.param == "parser in Python":
        pure = aiohttp.http_parser.HttpResponseParserPy
        monkeypatch.setattr(aiohttp.client_proto, "HttpResponseParser", pure)
        monkeypatch.setattr(aiohttp_internals, "enabled", False)


@pytest.fixture
async def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test run in virtual time, see `VirtualLoop`, and with the same random numbers each time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    monkeypatch.setattr(time, "monotonic", loop.time)
    monkeypatch.setattr(time, "time", loop.unix_time)
    monkeypatch.setattr(random, "random", random.Random(1).random)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a server with a script, and a client of it with options, as often as a test likes."""
    async with AsyncExitStack() as stack:

        async def started(
            *replies: Handler, delay: float = 0.0, handler: Handler | None = None, **options: Any
        ) -> tuple[Server, AsyncGradient]:
            server = await stack.enter_async_context(serve(*replies, delay=delay, handler=handler))
            defaults: dict[str, Any] = {
                "inference_endpoint": server.url,
                "agent_endpoint": server.url,
                "model_access_key": "model-key-0123",
                "agent_access_key": "agent-key-0123",
                "max_retries": 0,
            }
            client = await stack.enter_async_context(AsyncGradient(**(defaults | options)))
            return server, client

        yield started
