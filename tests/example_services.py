"""Runs the services of docs/examples, in the process of the test."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
KEY = "sk-0123456789-secret"


def example(name: str) -> Any:
    """Import a module of the folder, as Python does for a program that is run there."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


@asynccontextmanager
async def aiohttp_service() -> AsyncGenerator[str]:
    """The service on aiohttp; yields its URL."""
    app = example("aiohttp_service").make_app()
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fastapi_service() -> AsyncGenerator[str]:
    """The service on FastAPI; yields its URL."""
    pytest.importorskip("fastapi")
    async with run_fastapi(example("fastapi_service").app) as url:
        yield url


@asynccontextmanager
async def run_fastapi(app: Any) -> AsyncGenerator[str]:
    """Run an application by uvicorn; yield its URL."""
    uvicorn: Any = pytest.importorskip("uvicorn")
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
        listening.close()


SERVICES = {"aiohttp": aiohttp_service, "fastapi": fastapi_service}


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let a client without arguments find a server."""
    monkeypatch.delenv("GRADIENT_BASE_URL", raising=False)
    monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", KEY)
    monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", url)
