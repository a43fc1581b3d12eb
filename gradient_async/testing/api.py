"""Answers requests that no script answers: checks paths and keys, and adds headers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

from .browser import front_page, permission, preflight, wants_page
from .connection import Connection
from .payloads import CREATED, digitalocean_error, head, openai_error
from .quota import Meter, Quota
from .request import Request
from .script import Step, play, reply_json

_COMPLETIONS = frozenset({"/v1/chat/completions", "/chat/completions", "/api/v1/chat/completions"})
_MODELS = frozenset({"/v1/models", "/models"})
_MODEL = "/v1/models/{id}"
_METHODS = {**dict.fromkeys(_COMPLETIONS, "POST"), **dict.fromkeys((*_MODELS, _MODEL, "/health", "/"), "GET")}
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class Planned:
    """A reply that is not sent yet: a quota decides about it by its tokens, and then adds headers.

    Attributes:
        steps: Takes headers for the head of the reply, and returns the whole reply.
        tokens: The total of its usage; 0 if it has none.
    """

    steps: Callable[[Mapping[str, str]], Iterable[Step]]
    tokens: int = 0


class Backend(Protocol):
    """Answers requests for completions.

    Attributes:
        every_path: Whether it answers requests for any path, and its replies need no further headers.
        about: What it is, in a sentence or two, for the page at `/`.
    """

    every_path: bool
    about: str

    def names(self) -> Sequence[str]:
        """Return the names for the list of models."""
        ...

    def accepts(self, model: str) -> bool:
        """Whether it answers requests for a model."""
        ...

    def answer(self, request: Request) -> Planned:
        """Plan the reply to one request."""
        ...


class Routes:
    """Handler for requests that are not scripted; its arguments are described at `serve`.

    An empty set of keys accepts requests without a key. All requests without a key have one quota together.
    """

    def __init__(
        self,
        backend: Backend,
        keys: frozenset[str] = frozenset(),
        *,
        quota: Quota | None = None,
        latency: float = 0.0,
    ) -> None:
        self._backend = backend
        self._keys = keys
        self._quota = quota
        self._latency = latency
        self._meters: dict[str, Meter] = {}
        self._answered = 0

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer one request."""
        answer = preflight(request)
        await play(self._answer(request) if answer is None else answer.steps, connection)

    def _answer(self, request: Request) -> Iterable[Step]:
        headers = permission(request)
        every_path = self._backend.every_path
        if request.path == "/" and (wants_page(request) or (request.method == "GET" and not every_path)):
            names = self._backend.names()
            return front_page(request, self._backend.about, names, needs_key=bool(self._keys)).steps
        if not every_path:
            self._answered += 1
            headers["x-request-id"] = f"req-{self._answered:06}"
            if refused := _refuse_route(request, headers):
                return refused
            if request.path == "/health":
                return reply_json({"status": "ok"}, 200, headers).steps
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip()
        if self._keys and (scheme.lower() != "bearer" or key not in self._keys):
            return _refuse(request, 401, "unauthorized", "Unable to authenticate you", headers)
        if every_path or request.path in _COMPLETIONS:
            return self._complete(request, key, headers)
        return self._tell_models(request, headers)

    def _tell_models(self, request: Request, headers: Mapping[str, str]) -> Iterable[Step]:
        if request.path in _MODELS:
            models = [_model(name) for name in self._backend.names()]
            return reply_json({"object": "list", "data": models}, 200, headers).steps
        name = unquote(request.path.partition("/models/")[2])
        if self._backend.accepts(name):
            return reply_json(_model(name), 200, headers).steps
        return refusal(request, 404, unknown_model(name), headers)

    def _complete(self, request: Request, key: str, headers: Mapping[str, str]) -> Iterable[Step]:
        planned = self._backend.answer(request)
        if self._quota is not None:
            meter = self._meters.setdefault(key, Meter(self._quota))
            admitted, limits = meter.admit(planned.tokens, now=time.monotonic(), wall=time.time())
            headers = {**headers, **limits}
            if not admitted:
                status = self._quota.status
                name = "too_many_requests" if status == _TOO_MANY_REQUESTS else "server_error"
                return _refuse(
                    request, status, name, f"the key has used up its quota, {self._quota}", headers
                )
        steps = planned.steps(headers)
        return itertools.chain([self._latency], steps) if self._latency else steps


def _refuse_route(request: Request, headers: Mapping[str, str]) -> Iterable[Step] | None:
    """Return the refusal of a path that there is not, or of a method; None if the path takes the method."""
    is_model = request.path.startswith(("/v1/models/", "/models/"))
    method = _METHODS.get(_MODEL if is_model else request.path)
    if method is None:
        message = f"there is nothing at {request.path}; this server has {', '.join(sorted(_METHODS))}"
        return _refuse(request, 404, "not_found", message, headers)
    if request.method != method:
        message = f"{request.path} takes {method}, not {request.method}"
        return _refuse(request, 405, "method_not_allowed", message, {**headers, "allow": method})
    return None


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "gradient-async"}


def unknown_model(name: str) -> dict[str, dict[str, str | None]]:
    """Make the body of the error for a model that there is not."""
    return openai_error(f"the model {name!r} does not exist", param="model", code="model_not_found")


def _refuse(
    request: Request, status: int, name: str, message: str, headers: Mapping[str, str]
) -> Iterable[Step]:
    return refusal(request, status, digitalocean_error(name, message), headers)


def refusal(request: Request, status: int, body: object, headers: Mapping[str, str]) -> Iterable[Step]:
    """Return the steps of an error with a body of JSON."""
    if request.method == "HEAD":  # the reply to HEAD has no body
        return (head(status, {**headers, "content-length": "0"}),)
    return reply_json(body, status, headers).steps


class Unscripted:
    """Handler that refuses what no script answers, for ``serve(strict=True)``."""

    def __init__(self) -> None:
        self._refused: list[str] = []

    def faults(self) -> Sequence[str]:
        """Return the requests that were refused."""
        return self._refused

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Refuse one request."""
        message = f"{request.method} {request.path} is not scripted: every reply of the script was used"
        self._refused.append(message)
        body = openai_error(message, kind="not_scripted", code="not_scripted")
        await play(refusal(request, 501, body, {"x-should-retry": "false"}), connection)
