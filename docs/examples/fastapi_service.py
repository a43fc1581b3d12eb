"""A service that shows answers in a page while the model writes them, on FastAPI.

Run it with ``uvicorn fastapi_service:app --timeout-graceful-shutdown 10`` and open http://127.0.0.1:8000. The key comes
from ``GRADIENT_MODEL_ACCESS_KEY``. To try the service without a key, start ``gradient-async serve`` and set
``GRADIENT_INFERENCE_ENDPOINT`` to its URL.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import chat
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Send

from gradient_async import AsyncGradient


@asynccontextmanager
async def one_client(app: FastAPI) -> AsyncGenerator[None]:
    """Make one client for the life of the service, so that connections are reused."""
    async with AsyncGradient(**chat.CLIENT) as app.state.client:
        yield


app = FastAPI(lifespan=one_client)


@app.get("/", response_class=HTMLResponse)
async def page() -> HTMLResponse:
    """Show the page."""
    return HTMLResponse(chat.PAGE, headers=chat.PAGE_HEADERS)


class Events(StreamingResponse):
    """An event stream.

    When the browser leaves, FastAPI cancels the response. ``aclosing`` then closes the connection to the model, and
    the model stops. When the browser reads slowly, the response waits, and the model is read no faster.
    """

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(events, headers=chat.STREAM_HEADERS)
        self.events = events

    async def stream_response(self, send: Send) -> None:
        """Send the events, and close them in any case: a generator is not closed by the loop that leaves it."""
        async with aclosing(self.events):
            await super().stream_response(send)


@app.post("/answers")
async def answers(request: Request) -> Response:
    """Stream answers.

    The body is not a parameter of this function, because FastAPI reads a body of any length before it checks it.
    """
    try:
        question = await chat.read_question(request.headers.get("content-type", ""), request.stream())
    except ValueError:
        return JSONResponse(chat.NOT_ACCEPTED, status_code=400)
    return Events(chat.answer(request.app.state.client, question))


@app.get("/health")
async def health() -> dict[str, str]:
    """Say that the service runs. The model is not asked: its failure is no reason to restart the service."""
    return {"status": "ok"}
