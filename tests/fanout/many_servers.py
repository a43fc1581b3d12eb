"""Servers for many requests at once, and what they saw."""

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
    """Parameters of a request with this prompt."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **params}


def prompts(count: int) -> list[dict[str, Any]]:
    """So many requests with prompts "0", "1", ..."""
    return [ask_for(str(number)) for number in range(count)]


class Echo:
    """Answers with the prompt.

    Args:
        special: Replies to prompts that are not to be echoed.
        seconds: How long it takes, for each prompt that takes time.
        pause: How long it takes for the others.

    Attributes:
        under_way: Requests it is working on.
        most: Most that ever were.
        prompts: In the order they came.
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
        self.under_way = self.most = 0
        self.prompts: list[str] = []

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer."""
        body = request.json
        text = body["messages"][-1]["content"]
        self.prompts.append(text)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await connection.sleep(self._seconds.get(text, self._pause))
            await self._reply(text, stream=body.get("stream", False))(request, connection)
        finally:
            self.under_way -= 1

    def _reply(self, text: str, *, stream: bool) -> Handler:
        if text in self._special:
            return self._special[text]
        if stream:
            return reply_sse(chunk(text), chunk(finish_reason="stop", usage=USAGE))
        return reply_json(completion(text, usage=USAGE))


class Windows:
    """Allows so many requests in each window of so many seconds, and tells so by DigitalOcean's rule.

    A window begins with the first request that comes when the one before is over; resets are whole seconds of
    Unix time.

    Attributes:
        answers: How many requests were answered with each status.
        most: Most requests it was working on at once.
    """

    def __init__(self, allowed: int, seconds: float, *, pause: float = 0.0) -> None:
        self._allowed = allowed
        self._seconds = seconds
        self._pause = pause
        self._start = float("-inf")
        self._count = self._under_way = self.most = 0
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
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            await connection.sleep(self._pause)
            await reply_json(completion("hi", usage=USAGE), headers=headers)(request, connection)
        finally:
            self._under_way -= 1


async def closed_within(requests: list[Request], since: float, seconds: float = 0.1) -> None:
    """Expect the client to have closed under all of these replies soon after a moment.

    Args:
        requests: As the server saw them.
        since: The moment, by ``time.monotonic()``.
        seconds: How soon.
    """
    async with asyncio.timeout(seconds + 0.5):
        while any(request.closed_at is None for request in requests):  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.005)
    latest = max(request.closed_at or 0.0 for request in requests)
    assert latest - since < seconds
