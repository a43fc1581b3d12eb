"""A service that shows answers in a page while the model writes them, on aiohttp.

Run it with ``python aiohttp_service.py`` and open http://127.0.0.1:8000. The key comes from
``GRADIENT_MODEL_ACCESS_KEY``. To try the service without a key, start ``gradient-async serve`` and set
``GRADIENT_INFERENCE_ENDPOINT`` to its URL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import chat
from aiohttp import web

from gradient_async import AsyncGradient

CLIENT = web.AppKey("client", AsyncGradient)


async def page(request: web.Request) -> web.Response:
    """Show the page."""
    return web.Response(text=chat.PAGE, content_type="text/html", headers=chat.PAGE_HEADERS)


async def answers(request: web.Request) -> web.StreamResponse:
    """Stream answers.

    When the browser leaves, aiohttp cancels this handler. ``aclosing`` then closes the connection to the model,
    and the model stops. When the browser reads slowly, ``write`` waits, and the model is read no faster.
    """
    try:
        question = await chat.read_question(request.content_type, request.content.iter_any())
    except ValueError:
        return web.json_response(chat.NOT_ACCEPTED, status=400)
    response = web.StreamResponse(headers=chat.STREAM_HEADERS)
    await response.prepare(request)
    async with aclosing(chat.answer(request.app[CLIENT], question)) as events:
        async for event in events:
            await response.write(event)
    return response


async def health(request: web.Request) -> web.Response:
    """Say that the service runs. The model is not asked: its failure is no reason to restart the service."""
    return web.json_response({"status": "ok"})


async def one_client(app: web.Application) -> AsyncIterator[None]:
    """Make one client for the life of the service, so that connections are reused."""
    async with AsyncGradient(**chat.CLIENT) as app[CLIENT]:
        yield


def make_app() -> web.Application:
    """Make the service."""
    app = web.Application()
    app.cleanup_ctx.append(one_client)
    app.add_routes([web.get("/", page), web.post("/answers", answers), web.get("/health", health)])
    return app


if __name__ == "__main__":
    # Without handler_cancellation, a handler notices that the browser left only at its next write. When the service
    # is stopped, answers under way get ten seconds to end.
    web.run_app(make_app(), host="127.0.0.1", port=8000, handler_cancellation=True, shutdown_timeout=10)
