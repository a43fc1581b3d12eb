"""The simulated model: the same request always brings the same reply."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .answers import Answer
from .payloads import head, http_chunk, sse
from .request import Request
from .routes import openai_error
from .script import Reply, reply_json
from .validation import find_fault
from .wire import Connection

__all__ = ["Simulation"]

_NAMES = ("simulated", "error-429", "error-500", "error-503", "error-stream", "error-cut", "error-stall")
_AGENT = "simulated-agent"
_EVENTS_BEFORE_FAULT = 5
_FAULT_NAMES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    429: "too_many_requests",
}


class Simulation:
    """A model that needs no model.

    It honours ``n``, ``stop``, ``max_tokens`` and ``max_completion_tokens``, ``seed`` and ``temperature``
    (which vary the words), ``logprobs`` and ``top_logprobs``, ``tools`` with ``tool_choice`` and
    ``parallel_tool_calls``, ``reasoning_effort``, ``response_format``, ``stream`` and ``stream_options``,
    and refuses what the API would refuse. Agents may also ask for ``include_retrieval_info``,
    ``include_functions_info`` and ``include_guardrails_info``.

    With tools, a message from the user is answered by calls (two places joined by "and" are two calls), and
    results of tools by text. Otherwise the words of the last message decide: see `reply_text`.

    Some names of models bring trouble: ``error-NNN`` that status, for any from 400 to 599;
    ``error-stream`` an error event in mid-stream, ``error-cut`` a connection broken there, ``error-stall``
    silence from there on.

    Args:
        models: Names it goes by; none means that any name will do.
        delay: Seconds between two events of a stream.
    """

    def __init__(self, models: Sequence[str] = (), *, delay: float = 0.0) -> None:
        self._models = tuple(models)
        self._delay = delay

    def names(self) -> Sequence[str]:
        """Names for the list of models."""
        return self._models or _NAMES

    async def answer(
        self, request: Request, connection: Connection, headers: Mapping[str, str], *, agent: bool
    ) -> None:
        """Answer one request for a completion."""
        refusal, body = self._read(request, headers, agent=agent)
        if refusal is not None:
            await refusal(request, connection)
            return
        model = _AGENT if agent else str(body["model"])
        if body.get("stream"):
            await self._stream(request, connection, headers, Answer(body, model, agent=agent))
        elif model == "error-cut":
            connection.reset()
        elif model == "error-stall":
            await connection.wait_closed()
        else:
            whole = Answer(body, model, agent=agent).completion()
            await reply_json(whole, 200, headers)(request, connection)

    def _read(
        self, request: Request, headers: Mapping[str, str], *, agent: bool
    ) -> tuple[Reply | None, dict[str, Any]]:
        try:
            body = request.json
        except ValueError:
            return reply_json(openai_error("the body is not JSON", code="invalid_json"), 400, headers), {}
        fault = find_fault(body, agent=agent)
        if fault is not None:
            return reply_json(openai_error(fault.message, param=fault.param), 400, headers), {}
        model = "" if agent else str(body["model"])
        status = _status(model, stream=bool(body.get("stream")))
        if status is not None:
            return _trouble(status, headers), {}
        if self._models and not agent and model not in self._models and not model.startswith("error-"):
            error = openai_error(f"the model {model!r} does not exist", param="model", code="model_not_found")
            return reply_json(error, 404, headers), {}
        return None, body

    async def _stream(
        self, request: Request, connection: Connection, headers: Mapping[str, str], answer: Answer
    ) -> None:
        chunked = request.version == "1.1"
        fields = {**headers, "content-type": "text/event-stream", "cache-control": "no-cache"}
        fields |= {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
        await connection.write(head(200, fields))
        for number, event in enumerate(_troubled(answer.chunks(), answer.model)):
            if number and self._delay:
                await connection.sleep(self._delay)
            if event is None:
                if answer.model == "error-stall":
                    await connection.wait_closed()
                connection.reset()
                return
            data = sse(event, done=False)
            await connection.write(http_chunk(data) if chunked else data)
        done = sse(done=True)
        await connection.write(http_chunk(done) if chunked else done)
        if chunked:
            await connection.write(http_chunk(b""))


def _status(model: str, *, stream: bool) -> int | None:
    name, _, number = model.rpartition("-")
    if name == "error" and number.isdecimal() and number[0] in "45" and len(number) == len("404"):
        return int(number)
    return 500 if model == "error-stream" and not stream else None


def _trouble(status: int, headers: Mapping[str, str]) -> Reply:
    name = _FAULT_NAMES.get(status, "server_error" if status >= 500 else "bad_request")  # noqa: PLR2004  # an HTTP status
    fields = dict(headers)
    if status == 429:  # noqa: PLR2004  # the number is the name
        fields |= {"retry-after": "1", "x-ratelimit-remaining-requests": "0"}
    return reply_json(
        {"id": name, "message": f"this error {status} was asked for by the name of the model"}, status, fields
    )


def _troubled(chunks: Iterable[dict[str, Any]], model: str) -> Iterator[dict[str, Any] | None]:
    if model not in ("error-stream", "error-cut", "error-stall"):
        yield from chunks
        return
    yield from itertools.islice(chunks, _EVENTS_BEFORE_FAULT)
    if model == "error-stream":
        message = "this error was asked for by the name of the model"
        yield {"error": {"message": message, "type": "server_error", "code": "overloaded", "param": None}}
    else:
        yield None
