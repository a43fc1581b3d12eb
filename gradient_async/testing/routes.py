"""The API around the model: paths, methods, keys, the list of models, and the headers of every reply."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from .payloads import CREATED, head
from .request import Request
from .script import Reply, reply_json
from .wire import Connection

__all__ = ["Backend", "Routes", "openai_error"]

_COMPLETIONS = frozenset({"/v1/chat/completions", "/chat/completions", "/api/v1/chat/completions"})
_MODELS = frozenset({"/v1/models", "/models"})
_METHODS = {**dict.fromkeys(_COMPLETIONS, "POST"), **dict.fromkeys(_MODELS, "GET"), "/health": "GET"}

_LIMITS = (("requests", 250, 1), ("tokens-per-minute", 200_000, 60), ("tokens-per-day", 5_000_000, 86_400))
"""Name, limit, and window in seconds of each rate limit told of in the headers."""

_TOKENS_A_REQUEST = 100


class Backend(Protocol):
    """What answers completions."""

    def names(self) -> Sequence[str]:
        """Names for the list of models."""
        ...

    async def answer(
        self, request: Request, connection: Connection, headers: Mapping[str, str], *, agent: bool
    ) -> None:
        """Answer one request for a completion.

        Args:
            request: The request.
            connection: Where to write.
            headers: Header fields for the reply.
            agent: Whether an agent was asked, rather than a model.
        """
        ...


def openai_error(
    message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, dict[str, str | None]]:
    """Say what is wrong with a request, in the shape of OpenAI's API."""
    return {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": param}}


class Routes:
    """Handler for everything that is not scripted.

    Args:
        backend: Answers completions.
        keys: Keys to accept; none means that no key is asked for.
    """

    def __init__(self, backend: Backend, keys: frozenset[str]) -> None:
        self._backend = backend
        self._keys = keys
        self._served = 0

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer one request."""
        self._served += 1
        headers = self._headers()
        refusal = self._refusal(request, headers)
        if refusal is not None:
            await refusal(request, connection)
        elif request.path == "/health":
            await reply_json({"status": "ok"}, 200, headers)(request, connection)
        elif request.path in _MODELS:
            models = [
                {"id": name, "object": "model", "created": CREATED, "owned_by": "gradient-async"}
                for name in self._backend.names()
            ]
            await reply_json({"object": "list", "data": models}, 200, headers)(request, connection)
        else:
            agent = request.path.startswith("/api/") or request.query.get("agent") == "true"
            await self._backend.answer(request, connection, headers, agent=agent)

    def _headers(self) -> dict[str, str]:
        """Number the reply, and tell rate limits that look alive: what remains falls, then starts over."""
        headers = {"x-request-id": f"req-{self._served:06}"}
        now = int(time.time())
        for name, limit, window in _LIMITS:
            used = self._served * (1 if name == "requests" else _TOKENS_A_REQUEST) % limit
            headers[f"x-ratelimit-limit-{name}"] = str(limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(limit - used)
            headers[f"x-ratelimit-reset-{name}"] = str(now - now % window + window)
        return headers

    def _refusal(self, request: Request, headers: Mapping[str, str]) -> Reply | None:
        method = _METHODS.get(request.path)
        if method is None:
            message = f"there is nothing at {request.path}; this server has {', '.join(sorted(_METHODS))}"
            return _refuse(request, 404, "not_found", message, headers)
        if request.method != method:
            message = f"{request.path} takes {method}, not {request.method}"
            return _refuse(request, 405, "method_not_allowed", message, {**headers, "allow": method})
        if request.path != "/health" and self._keys:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or key.strip() not in self._keys:
                return _refuse(request, 401, "unauthorized", "Unable to authenticate you", headers)
        return None


def _refuse(request: Request, status: int, name: str, message: str, headers: Mapping[str, str]) -> Reply:
    if request.method == "HEAD":  # whose reply must not have a body
        return Reply((head(status, {**headers, "content-length": "0"}),))
    return reply_json({"id": name, "message": message}, status, headers)
