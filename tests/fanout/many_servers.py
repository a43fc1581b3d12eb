"""Test servers that count the requests they work on at once, and helpers for requests."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from gradient_async.testing import Connection, Handler, Request, chunk, completion, reply_json, reply_sse

__all__ = ["Echo", "Windows", "ask_for", "closed_within", "prompts"]

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def ask_for(text: str, **params: Any) -> dict[str, Any]:
    """Return parameters of a request with this prompt."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **params}


def prompts(count: int) -> list[dict[str, Any]]:
    """Return parameters of requests with the prompts "0", "1", ..."""
    return [ask_for(str(number)) for number in range(count)]


class Echo:
    """Answers each request with its prompt.

    Args:
        special: Other replies, by prompt.
        seconds: How long an answer takes, by prompt.
        pause: How long an answer to any other prompt takes.

    Attributes:
        in_flight: How many requests it is working on.
        max_in_flight: The largest number so far.
        prompts: All prompts, in the order of arrival.
    """

    def __init__(
        self,
        special: Mapping[str, Handler] | None = None,
        *,
        seconds: Mapping[str, float] | None = None,
        pause: float = 0.0,
    ) -> None:
        self._special = special or {}
        self._seconds = seconds or {}
        self._pause = pause
        self.in_flight = self.max_in_flight = 0
        self.prompts: list[str] = []

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer."""
        body = request.json
        text = body["messages"][-1]["content"]
        self.prompts.append(text)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await connection.sleep(self._seconds.get(text, self._pause))
            await self._reply(text, stream=body.get("stream", False))(request, connection)
        finally:
            self.in_flight -= 1

    def _reply(self, text: str, *, stream: bool) -> Handler:
        if text in self._special:
            return self._special[text]
        if stream:
            return reply_sse(chunk(text), chunk(finish_reason="stop", usage=USAGE))
        return reply_json(completion(text, usage=USAGE))


class Windows:
    """Allows a number of requests in each window of time, and says so in DigitalOcean's headers.

    A window begins with the first request after the end of the one before. Resets are in whole seconds of Unix
    time, as DigitalOcean sends them.

    Attributes:
        answers: How many requests it answered, by status.
        max_in_flight: Most requests it was working on at once.
    """

    def __init__(self, allowed: int, seconds: float, *, pause: float = 0.0) -> None:
        self._allowed = allowed
        self._seconds = seconds
        self._pause = pause
        self._start = float("-inf")
        self._count = self._in_flight = self.max_in_flight = 0
        self.answers: Counter[int] = Counter()

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer, or refuse."""
        now = time.time()
        if now >= self._start + self._seconds:
            self._start, self._count = now, 0
        self._count += 1
        headers = {
            "x-ratelimit-limit-requests": str(self._allowed),
            "x-ratelimit-remaining-requests": str(max(0, self._allowed - self._count)),
            "x-ratelimit-reset-requests": str(int(self._start + self._seconds)),
        }
        if self._count > self._allowed:
            self.answers[429] += 1
            reply = reply_json({"id": "too_many_requests", "message": "slow down"}, 429, headers)
            await reply(request, connection)
            return
        self.answers[200] += 1
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            await connection.sleep(self._pause)
            await reply_json(completion("hi", usage=USAGE), headers=headers)(request, connection)
        finally:
            self._in_flight -= 1


async def closed_within(requests: list[Request], since: float, seconds: float = 0.02) -> None:
    """Assert that the client closed the connections of these requests soon after a moment; for tests in virtual time.

    Args:
        requests: The requests, as the server saw them.
        since: The moment, by ``time.monotonic()``.
        seconds: How soon.
    """
    await asyncio.sleep(seconds)
    assert [] == [
        request for request in requests if request.closed_at is None or request.closed_at > since + seconds
    ]
