"""A service that streams answers to browsers and picks one of several answers, with aiohttp.

Run it with ``python aiohttp_service.py`` and open http://127.0.0.1:8000. The key comes from
``GRADIENT_MODEL_ACCESS_KEY``. To try the service without a key, start ``gradient-async serve`` and set
``GRADIENT_INFERENCE_ENDPOINT`` to its URL.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from gradient_async import AsyncGradient, Choice, GradientError

MODEL = "llama3.3-70b-instruct"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CLIENT = web.AppKey("client", AsyncGradient)
PAGE = """<!doctype html>
<title>Ask</title>
<form><input name="question" size="60" value="Count to five."> <button>Ask</button></form>
<pre></pre>
<script>
document.querySelector("form").onsubmit = async (event) => {
  event.preventDefault();
  const out = document.querySelector("pre");
  out.textContent = "";
  const question = event.target.question.value;
  const reply = await fetch("/ask", { method: "POST", body: JSON.stringify({ question }) });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part; !(part = await reader.read()).done; ) out.textContent += part.value;
};
</script>
"""


async def page(request: web.Request) -> web.Response:
    """Show a form."""
    return web.Response(text=PAGE, content_type="text/html")


async def ask(request: web.Request) -> web.StreamResponse:
    """Stream an answer as plain text.

    When the browser leaves, aiohttp cancels this handler. ``async with`` then closes the connection to the
    model, and the model stops.
    """
    question = (await request.json())["question"]
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    async with request.app[CLIENT].chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": question}]
    ) as stream:
        # An error before this line becomes a status; a later error can only end the text.
        await response.prepare(request)
        async for text in stream.text:
            await response.write(text.encode())
    return response


async def relay(request: web.Request) -> web.StreamResponse:
    """Relay the model's events unchanged, for a client that decodes them itself."""
    question = (await request.json())["question"]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    async with request.app[CLIENT].chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": question}]
    ) as stream:
        await response.prepare(request)
        async for data in stream.raw:
            await response.write(data)
    return response


def is_json(choice: Choice) -> bool:
    """Whether an answer is JSON."""
    try:
        json.loads(choice.message.content or "")
    except ValueError:
        return False
    return True


async def pick(request: web.Request) -> web.Response:
    """Generate four answers, and return the first that is JSON; the others are cancelled at once."""
    question = (await request.json())["question"]
    async with request.app[CLIENT].chat.completions.fan_out(
        n=4,
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        stop_when=is_json,
        on_error="collect",
    ) as fan:
        completion = await fan.completion()
    if fan.winner is None:
        return web.json_response({"error": "no answer was JSON"}, status=502)
    return web.json_response({"answer": json.loads(completion.choices[0].message.content or "")})


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return an error as JSON, if no part of the reply was sent before."""
    try:
        return await handler(request)
    except GradientError as error:
        return web.json_response({"error": error.message}, status=502)


async def one_client(app: web.Application) -> AsyncIterator[None]:
    """Make one client for the life of the service, so that connections are reused."""
    async with AsyncGradient() as app[CLIENT]:
        yield


def make_app() -> web.Application:
    """Make the service."""
    app = web.Application(middlewares=[errors_as_json])
    app.cleanup_ctx.append(one_client)
    app.add_routes(
        [web.get("/", page), web.post("/ask", ask), web.post("/relay", relay), web.post("/pick", pick)]
    )
    return app


if __name__ == "__main__":
    # Without handler_cancellation, a handler notices that the browser left only at its next write.
    web.run_app(make_app(), host="127.0.0.1", port=8000, handler_cancellation=True)
