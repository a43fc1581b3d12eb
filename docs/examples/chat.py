"""What the services on aiohttp and on FastAPI share: the page, the question that it sends, and the events that it gets.

The page sends ``POST /answers`` with JSON such as ``{"prompt": "Why is the sky blue?", "n": 3}``. The reply is an
event stream. Each event is a line ``data:`` with a JSON object, and an empty line:

==================================================================  ==============================================
``{"type": "reasoning", "answer": 0, "text": "Light is"}``          a piece of the reasoning before an answer
``{"type": "text", "answer": 0, "text": "It scatters"}``            a piece of an answer
``{"type": "tokens", "answer": 0, "tokens": [["It", -0.1], ...]}``  the tokens of that text, each with its log
                                                                    probability
``{"type": "end", "answer": 0, "reason": "stop"}``                  the end of an answer; the reasons ``length`` and
                                                                    ``content_filter`` mean that it is cut
``{"type": "done", "tokens": 42}``                                  the end of all answers, and their tokens
``{"type": "error", "message": "The model is busy.", "id": "5f3a",  what went wrong, in words for visitors; ``id``
"retry": true, "wait": 3}``                                         is in the log; ``wait`` is in seconds
==================================================================  ==============================================

Some servers continue an answer after its end; then it ends again. The last event is ``done`` or ``error``. If neither
comes, the connection to the service was lost. A question that is not accepted gets status 400 and the JSON object
of an error.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gradient_async import (
    APIConnectionError,
    APITimeoutError,
    AsyncGradient,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    GradientError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PaymentRequiredError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    Retry,
    StreamError,
    StreamServerError,
    Timeout,
    UnexpectedRedirectError,
    UnprocessableEntityError,
)

# Leave out what your model does not know.
REQUEST: dict[str, Any] = {"model": "openai-gpt-oss-120b", "logprobs": True, "reasoning_effort": "low"}
# A visitor does not wait for minutes: a longer wait is an error at once, which says how long.
CLIENT: dict[str, Any] = {"timeout": Timeout(first_token=60, idle=20), "retry": Retry(budget=5)}

log = logging.getLogger("chat")


class Question(msgspec.Struct, frozen=True):
    """What the page sends."""

    prompt: Annotated[str, Meta(max_length=4000, pattern=r"\S")]
    n: Annotated[int, Meta(ge=1, le=4)] = 1


NOT_ACCEPTED = {
    "type": "error",
    "message": "Ask for 1 to 4 answers, with up to 4000 characters.",
    "retry": False,
}


async def read_question(content_type: str, body: AsyncIterable[bytes]) -> Question:
    """Read and check what a browser sent.

    A page of another site can send a form or text, but it needs leave to send JSON, and nobody gives it.

    Raises:
        ValueError: If it is no question.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ValueError("the body is not JSON")
    data = b""
    async for part in body:
        data += part
        if len(data) > 32 * 1024:
            raise ValueError("the body is too long")
    return msgspec.json.decode(data, type=Question)


async def answer(client: AsyncGradient, question: Question) -> AsyncGenerator[bytes]:
    """Ask the model, and yield the events for the page.

    Close this generator to stop the model: ``async with aclosing(answer(...))``.
    """
    tokens = 0
    try:
        async with client.chat.completions.stream(
            messages=[{"role": "user", "content": question.prompt}], n=question.n, **REQUEST
        ) as stream:
            async for event in stream.events():
                match event.type:
                    case "reasoning.delta":
                        yield encode(type="reasoning", answer=event.choice, text=event.delta)
                    case "content.delta" | "refusal.delta":
                        yield encode(type="text", answer=event.choice, text=event.delta)
                    case "logprobs.content.delta":
                        pairs = [(token.token, token.logprob) for token in event.content]
                        yield encode(type="tokens", answer=event.choice, tokens=pairs)
                    case "finish":
                        yield encode(type="end", answer=event.choice, reason=event.finish_reason)
                    case "usage":
                        tokens = event.usage.completion_tokens
                    case _:
                        pass
    except GradientError as error:
        yield encode(**explain(error))
    else:
        yield encode(type="done", tokens=tokens)


def encode(**event: Any) -> bytes:
    """Make the bytes of an event."""
    return f"data: {json.dumps(event)}\n\n".encode()


def explain(error: GradientError) -> dict[str, Any]:
    """Make the event of an error: what a visitor may know. The log has the rest, under the same id."""
    reference = secrets.token_hex(4)
    log.warning("answer %s: %s: %s", reference, type(error).__name__, error)
    kind = error.status_class if isinstance(error, StreamServerError) else type(error)
    message, retry = next(words for kinds, words in WORDS.items() if issubclass(kind, kinds))
    wait = math.ceil(getattr(error, "retry_after", None) or 0)
    return {"type": "error", "message": message, "id": reference, "retry": retry, "wait": wait}


SETUP = ("This service is not set up correctly. Please tell its owner.", False)
# The words, and whether to offer a second try; the first row that fits counts. No row names a model, host or setting.
WORDS: dict[tuple[type[GradientError], ...], tuple[str, bool]] = {
    (AuthenticationError, PaymentRequiredError, PermissionDeniedError, QuotaExceededError): SETUP,
    (NotFoundError, UnexpectedRedirectError, ConfigurationError, InvalidRequestError): SETUP,
    (RateLimitError, OverloadedError): ("The model is busy. Please try again later.", True),
    (BadRequestError, RequestTooLargeError, UnprocessableEntityError): (
        "The model does not accept this question.",
        False,
    ),
    (APITimeoutError,): ("The model fell silent.", True),
    (StreamError,): ("The answer broke off.", True),
    (APIConnectionError,): ("The model can't be reached.", True),
    (GradientError,): ("The model failed.", True),
}


def _hash_of(tag: str) -> str:
    # Of the page's one element with this name. A browser runs a script, and applies a style, only with the right hash.
    inside = PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


PAGE = Path(__file__).with_name("chat.html").read_text("utf-8")
POLICY = {
    "default-src": "'none'",
    "script-src": _hash_of("script"),
    "style-src": _hash_of("style"),
    "img-src": "data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",  # no text becomes HTML
    "trusted-types": "'none'",
}
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(map(" ".join, POLICY.items())),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx passes each event on at once
}
