"""What a browser asks a server for: permission to read its replies (CORS), and a page for people at `/`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from .payloads import head
from .request import Request
from .script import Reply, reply_bytes

# Only pages of this machine are permitted: any other page could spend the key of an upstream server, or read recordings. The
# origin `null` is not permitted: files have it, but every page can make a frame with this origin.
_LOOPBACK = re.compile(
    r"https?://(?:(?:[\w-]+\.)*localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE
)
_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gradient-async serve</title>
<style>
  :root { color-scheme: light dark }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
  pre { padding: .8rem 1rem; background: #8882; border-radius: .4rem; font-size: .9rem;
    white-space: pre-wrap; overflow-wrap: anywhere }
</style>
<h1>gradient-async serve</h1>
"""


def permission(request: Request) -> dict[str, str]:
    """Return headers that let the page which sent a request read the reply, if the page is from this machine."""
    origin = request.headers.get("origin", "")
    if not _LOOPBACK.fullmatch(origin):
        return {}
    return {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": "*",
        "vary": "origin",
    }


def preflight(request: Request) -> Reply | None:
    """Return the reply to a browser that asks whether a page of this machine may send a request."""
    headers = permission(request)
    if request.method != "OPTIONS" or "access-control-request-method" not in request.headers or not headers:
        return None
    headers |= {
        "access-control-allow-methods": "GET, POST",
        # `*` would not permit the header Authorization, so the headers are named.
        "access-control-allow-headers": request.headers.get("access-control-request-headers", "*"),
        "access-control-max-age": "600",
    }
    return Reply((head(204, headers),))


def wants_page(request: Request) -> bool:
    """Whether a browser asks for a page to show."""
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def usage(url: str, key: str, model: str) -> dict[str, str]:
    """Return how to send a request to a server: a title and the code for each way."""
    return {
        "curl": f"""\
curl -N {url}/v1/chat/completions \\
  -H 'Authorization: Bearer {key}' \\
  -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'""",
        "Python": f"""\
import asyncio

from gradient_async import AsyncGradient


async def main() -> None:
    async with AsyncGradient(inference_endpoint="{url}", model_access_key="{key}") as client:
        messages = [{{"role": "user", "content": "Hello"}}]
        async with client.chat.completions.stream(model="{model}", messages=messages) as stream:
            async for text in stream.text:
                print(text, end="", flush=True)


asyncio.run(main())""",
        "Command line": f"""\
export GRADIENT_INFERENCE_ENDPOINT={url} GRADIENT_MODEL_ACCESS_KEY={key}
gradient-async chat --model {model} 'Hello'""",
    }


def front_page(request: Request, about: str, names: Sequence[str], *, needs_key: bool) -> Reply:
    """Return the page at `/`: what the server is, and how to use it. For clients other than browsers it is plain text."""
    url = f"http://{request.headers.get('host', 'localhost')}"
    # Models named error-... fail on purpose.
    model = next((name for name in names if not name.startswith("error-")), "any")
    parts = usage(url, "YOUR_KEY" if needs_key else "any", model)
    listed = {"Models": "\n".join(names)} if names else {}
    if not wants_page(request):
        text = "\n\n".join([about, *(f"{title}:\n\n{code}" for title, code in (parts | listed).items())])
        return reply_bytes(f"{text}\n".encode(), content_type="text/plain; charset=utf-8")
    sections = (
        f"<h2>{title}</h2>\n<pre>{escape(code, quote=False)}</pre>"
        for title, code in (parts | listed).items()
    )
    page = "\n".join([f"{_HEAD}<p>{escape(about)}", *sections])
    headers = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return reply_bytes(page.encode(), headers=headers, content_type="text/html; charset=utf-8")
