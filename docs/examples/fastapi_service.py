"""A service that streams answers to browsers and picks one of several answers, with FastAPI.

Run it with ``uvicorn fastapi_service:app``. The key comes from ``GRADIENT_MODEL_ACCESS_KEY``. To try the service
without a key, start ``gradient-async serve`` and set ``GRADIENT_INFERENCE_ENDPOINT`` to its URL.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from gradient_async import AsyncGradient, Choice, GradientError

MODEL = "llama3.3-70b-instruct"
T = TypeVar("T")


@asynccontextmanager
async def one_client(app: FastAPI) -> AsyncGenerator[None]:
    """Make one client for the life of the service, so that connections are reused."""
    async with AsyncGradient() as app.state.client:
        yield


app = FastAPI(lifespan=one_client)


class Question(BaseModel):
    """The body of a request."""

    question: str


@app.exception_handler(GradientError)
async def as_json(request: Request, error: GradientError) -> JSONResponse:
    """Return an error as JSON, if no part of the reply was sent before."""
    return JSONResponse({"error": error.message}, status_code=502)


@app.post("/ask")
async def ask(request: Request, asked: Question) -> StreamingResponse:
    """Stream an answer as plain text.

    The request is sent before the response begins, so that an error of the model can become a status.
    """
    client: AsyncGradient = request.app.state.client
    stream = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": asked.question}], stream=True
    )

    async def texts() -> AsyncIterator[str]:
        # When the browser leaves, this generator is cancelled. ``async with`` then closes the connection to
        # the model, and the model stops.
        async with stream:
            async for text in stream.text:
                yield text

    return StreamingResponse(texts(), media_type="text/plain; charset=utf-8")


def is_json(choice: Choice) -> bool:
    """Whether an answer is JSON."""
    try:
        json.loads(choice.message.content or "")
    except ValueError:
        return False
    return True


@app.post("/pick")
async def pick(request: Request, asked: Question) -> Any:
    """Generate four answers, and return the first that is JSON; the others are cancelled at once."""
    client: AsyncGradient = request.app.state.client
    fan = client.chat.completions.fan_out(
        n=4,
        model=MODEL,
        messages=[{"role": "user", "content": asked.question}],
        stop_when=is_json,
        on_error="collect",
    )
    completion = await unless_left(request, fan.completion())
    if fan.winner is None:
        raise HTTPException(502, "no answer was JSON")
    return {"answer": json.loads(completion.choices[0].message.content or "")}


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await work, and cancel it if the browser leaves; FastAPI itself would let it continue."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body is read: next comes the disconnect
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HTTPException(499, "the client has left")
    finally:
        for waiting in (task, gone):
            waiting.cancel()
        await asyncio.wait((task, gone))
