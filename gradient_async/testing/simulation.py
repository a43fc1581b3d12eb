"""The simulated model: checks a request, plans the answer in full, and sends it whole or in chunks."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, cast

import msgspec
from msgspec import Meta

from ..decoding import check_params, known_params
from ..errors import InvalidRequestError
from ..types import FunctionDefinition
from ..types.model import build_tables
from .api import Planned, unknown_model
from .payloads import chunk, completion, digitalocean_error, dump, openai_error, sse
from .request import Request
from .schemas import choose_calls, fill_schema
from .script import HOLD, RESET, Step, end_reply, frame, open_reply, reply_json
from .words import Piece, cut_text, digest, last_text, reasoning, reply_text, text_of, tokenize

_NAMES = ("simulated", "error-429", "error-500", "error-503", "error-stream", "error-cut", "error-stall")
_AGENT = "simulated-agent"
_BREAKS = {"error-cut": RESET, "error-stall": HOLD}
_CHUNKS_BEFORE_FAULT = 5
_ERROR_NAMES = {401: "unauthorized", 403: "forbidden", 404: "not_found", 429: "too_many_requests"}
_ARGUMENTS_PER_PIECE = 6  # characters of a call's arguments in one delta


class Simulation:
    """A backend that pretends to be a model; docs/testing.md describes its behaviour.

    Args:
        models: Names to accept; an empty sequence accepts any name.
        delay: Seconds between two events of a stream.
    """

    every_path = False
    about = "This is a server for tests. It simulates a model: no model is asked, and the same request always gets the same reply."

    def __init__(self, models: Sequence[str] = (), *, delay: float = 0.0) -> None:
        self._models = (models,) if isinstance(models, str) else tuple(models)
        self._delay = delay

    def names(self) -> Sequence[str]:
        """Return the names for the list of models."""
        return self._models or _NAMES

    def accepts(self, model: str) -> bool:
        """Whether a model is among those of the server, if these are limited, or makes it fail."""
        return not self._models or model in self._models or model.startswith("error-")

    def answer(self, request: Request) -> Planned:
        """Plan the reply to one request for a completion."""
        agent = request.path.startswith("/api/") or request.query.get("agent") == "true"
        try:
            body = check_request(request.json, agent=agent)
        except InvalidRequestError as refused:
            return _error(400, openai_error(str(refused), param=refused.param))
        except (ValueError, RecursionError):
            return _error(400, openai_error("the body is not JSON", code="invalid_json"))
        model: str = _AGENT if agent else body["model"]
        stream = bool(body.get("stream"))
        if status := re.fullmatch(r"error-([45][0-9]{2})", model):
            return _error_on_demand(int(status[1]))
        if not stream and model == "error-stream":
            return _error_on_demand(500)
        if not stream and model in _BREAKS:
            return Planned(lambda _: (_BREAKS[model],))
        if not agent and not self.accepts(model):
            return _error(404, unknown_model(model))
        answer = Answer(body, model, agent=agent)
        tokens: int = answer.usage["total_tokens"]
        if stream:
            return Planned(lambda headers: self._stream(answer, request, headers), tokens)
        return Planned(lambda headers: reply_json(answer.completion(), 200, headers).steps, tokens)

    def _stream(self, answer: Answer, request: Request, headers: Mapping[str, str]) -> Iterator[Step]:
        breaks = _BREAKS.get(answer.model)
        fails = answer.model == "error-stream"
        events: Iterator[Mapping[str, Any]] = answer.chunks()
        if breaks or fails:
            events = itertools.islice(itertools.takewhile(_is_unfinished, events), _CHUNKS_BEFORE_FAULT)
        if fails:
            message = "this error was asked for by the name of the model"
            error = openai_error(message, kind="server_error", code="overloaded")
            events = itertools.chain(events, [error])
        fields = {**headers, "content-type": "text/event-stream", "cache-control": "no-cache"}
        opening, framing = open_reply(request, 200, fields, chunked=True)
        yield opening
        for number, event in enumerate(events):
            if self._delay and number:
                yield self._delay
            yield frame(sse(event, done=False), framing)
        if breaks:
            yield breaks
            return
        yield frame(sse(), framing)
        yield from end_reply("eof", framing)


def _is_unfinished(event: Mapping[str, Any]) -> bool:
    return all(choice["finish_reason"] is None for choice in event["choices"])


def _error(status: int, body: object, headers: Mapping[str, str] | None = None) -> Planned:
    return Planned(lambda others: reply_json(body, status, {**others, **(headers or {})}).steps)


def _error_on_demand(status: int) -> Planned:
    name = _ERROR_NAMES.get(status, "server_error" if status >= 500 else "bad_request")  # noqa: PLR2004  # an HTTP status
    message = f"this error {status} was asked for by the name of the model"
    wait = {"retry-after": "1"} if name == "too_many_requests" else None
    return _error(status, digitalocean_error(name, message), wait)


@dataclass(frozen=True)
class Choice:
    """One choice of an answer: the pieces that a stream sends one by one."""

    index: int
    pieces: list[Piece]
    finish_reason: str

    def message(self) -> dict[str, Any]:
        """Return the message of a whole completion: the deltas, joined."""
        message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        for name, value in itertools.chain(*(piece.delta.items() for piece in self.pieces)):
            if name != "tool_calls":
                message[name] = message.get(name, "") + value
            elif "id" in value[0]:
                call = {key: value[0][key] for key in ("id", "type", "function")}
                message.setdefault(name, []).append({**call, "function": {**call["function"]}})
                message["content"] = None
            else:
                message[name][-1]["function"]["arguments"] += value[0]["function"]["arguments"]
        return message

    def deltas(self) -> Iterator[dict[str, Any]]:
        """Yield the entries of this choice in the chunks of a stream."""
        rest = {"index": self.index, "finish_reason": None, "logprobs": None}
        calls = any("tool_calls" in piece.delta for piece in self.pieces)
        yield {**rest, "delta": {"role": "assistant", "content": None if calls else ""}}
        for piece in self.pieces:
            yield {**rest, "delta": piece.delta, "logprobs": _logprobs([piece])}
        yield {**rest, "delta": {}, "finish_reason": self.finish_reason}


class Answer:
    """The answer to one valid request, to be sent whole or in chunks."""

    def __init__(self, body: Mapping[str, Any], model: str, *, agent: bool) -> None:
        self.model = model
        self._body = body
        self._agent = agent
        self._messages: list[dict[str, Any]] = body["messages"]
        self._prompt = last_text(self._messages)
        temperature = body.get("temperature")
        # A seed does not change greedy decoding.
        self._variant = ("greedy",) if temperature == 0 else (temperature, body.get("seed"))
        self._choices = [self._plan(index) for index in range(body.get("n") or 1)]
        self._id = f"chatcmpl-{digest(self._messages, self._variant, model):012x}"

    def _plan(self, index: int) -> Choice:
        effort = self._body.get("reasoning_effort")
        thoughts = reasoning(self._prompt, effort) if effort not in (None, "none") else ""
        pieces = cut_text(thoughts, "reasoning_content")
        if self._wants_tools():
            pieces += self._call_pieces(index)
            finish_reason = "tool_calls"
        else:
            top = (self._body.get("top_logprobs") or 0) if self._body.get("logprobs") else None
            pieces += cut_text(self._text(index), "content", top=top, variant=(self._variant, index))
            finish_reason = "stop"
        limit = self._body.get("max_completion_tokens") or self._body.get("max_tokens") or float("inf")
        totals = itertools.accumulate(piece.tokens for piece in pieces)
        kept = [piece for piece, total in zip(pieces, totals, strict=True) if total <= limit]
        return Choice(index, kept, finish_reason if len(kept) == len(pieces) else "length")

    def _wants_tools(self) -> bool:
        choice = self._body.get("tool_choice")
        if not self._body.get("tools") or choice == "none":
            return False
        # The result of a call is answered with text, unless the request demands another call.
        return choice not in (None, "auto") or self._messages[-1]["role"] != "tool"

    def _call_pieces(self, index: int) -> Iterator[Piece]:
        """Cut calls into deltas: first id and name, then the arguments in several pieces."""
        choice: Any = self._body.get("tool_choice")
        calls = choose_calls(
            self._body["tools"],
            self._prompt,
            named=None if isinstance(choice, str | None) else choice["function"]["name"],
            parallel=self._body.get("parallel_tool_calls") is not False,
        )
        for number, (name, value) in enumerate(calls):
            call_id = f"call_{digest(self._prompt, number, name, index):012x}"
            function = {"name": name, "arguments": ""}
            entry = {"index": number, "id": call_id, "type": "function", "function": function}
            yield Piece({"tool_calls": [entry]})
            arguments = dump(value).decode()
            for start in range(0, len(arguments), _ARGUMENTS_PER_PIECE):
                part = arguments[start : start + _ARGUMENTS_PER_PIECE]
                yield Piece({"tool_calls": [{"index": number, "function": {"arguments": part}}]})

    def _text(self, index: int) -> str:
        wanted: dict[str, Any] = self._body.get("response_format") or {}
        text = reply_text(self._messages, variant=self._variant, choice=index)
        if wanted.get("type") == "json_object":
            text = dump({"reply": text}).decode()
        elif wanted.get("type") == "json_schema":
            text = dump(fill_schema(wanted["json_schema"]["schema"], self._prompt)).decode()
        stop: str | list[str] = self._body.get("stop") or []
        for word in [stop] if isinstance(stop, str) else stop:
            text = text.partition(word)[0]
        return text

    def completion(self) -> dict[str, Any]:
        """Return the answer as one completion."""
        choices = [
            {
                "index": choice.index,
                "message": choice.message(),
                "finish_reason": choice.finish_reason,
                "logprobs": _logprobs(choice.pieces),
            }
            for choice in self._choices
        ]
        answer = completion(choices=choices, id=self._id, model=self.model, usage=self.usage)
        return answer | self._extras()

    def chunks(self) -> Iterator[dict[str, Any]]:
        """Yield the answer as chunks; several choices take turns."""
        frame: dict[str, Any] = chunk(id=self._id, model=self.model)
        options: dict[str, Any] = self._body.get("stream_options") or {}
        with_usage = options.get("include_usage")
        if with_usage:
            frame["usage"] = None
        rounds = itertools.zip_longest(*(choice.deltas() for choice in self._choices))
        deltas = [delta for one_round in rounds for delta in one_round if delta is not None]
        for delta in deltas[:-1]:
            yield {**frame, "choices": [delta]}
        yield {**frame, "choices": deltas[-1:], **self._extras()}
        if with_usage:
            yield {**frame, "choices": [], "usage": self.usage}

    @functools.cached_property
    def usage(self) -> dict[str, Any]:
        """The usage of the whole answer."""
        prompt = sum(len(tokenize(text_of(message.get("content")))) + 4 for message in self._messages)
        pieces = [piece for choice in self._choices for piece in choice.pieces]
        total = sum(piece.tokens for piece in pieces)
        thoughts = sum(piece.tokens for piece in pieces if "reasoning_content" in piece.delta)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": total,
            "total_tokens": prompt + total,
            "cache_created_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "cache_read_input_tokens": 0,
            "completion_tokens_details": {"reasoning_tokens": thoughts},
        }

    def _extras(self) -> dict[str, Any]:
        """Return the additional information of agents that the request asks for."""
        page = f"A page that the simulated knowledge base holds on {self._prompt!r}."
        data = {"id": "doc-1", "index": "kb-1", "filename": "page.md", "page_content": page, "score": 0.9}
        calls = self._choices[0].message().get("tool_calls", ())
        extras: dict[str, Any] = {
            "retrieval": {"retrieved_data": [data]},
            "functions": {"called_functions": [call["function"]["name"] for call in calls]},
            "guardrails": {"triggered_guardrails": []},
        }
        return {
            name: value
            for name, value in extras.items()
            if self._agent and self._body.get(f"include_{name}_info")
        }


def _logprobs(pieces: Sequence[Piece]) -> dict[str, Any] | None:
    entries = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    return {"content": list(itertools.chain(*entries)), "refusal": None} if entries else None


class _Text(msgspec.Struct, tag_field="type", tag="text"): ...


class _JSONObject(msgspec.Struct, tag_field="type", tag="json_object"): ...


class _NamedSchema(TypedDict):
    schema: dict[str, Any]


class _JSONSchema(msgspec.Struct, tag_field="type", tag="json_schema"):
    json_schema: _NamedSchema


class _FunctionTool(TypedDict):
    function: FunctionDefinition


class _Location(TypedDict):
    url: str


class _Part(TypedDict, total=False):
    image_url: _Location
    video_url: _Location


class _Message(TypedDict, total=False):
    content: str | _Part | list[str | _Part] | None


class _Limits(TypedDict, total=False):
    """The limits that this server has in addition to the documented limits."""

    messages: list[_Message]
    stream: bool | None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None
    stop: Annotated[str, Meta(min_length=1)] | list[Annotated[str, Meta(min_length=1)]] | None
    response_format: _Text | _JSONObject | _JSONSchema | None
    tools: list[_FunctionTool] | None


build_tables(_Limits)


def check_request(body: object, *, agent: bool) -> dict[str, Any]:
    """Return the body of a request for a completion; raise `InvalidRequestError` where the API answers 400."""
    if not isinstance(body, dict):
        raise InvalidRequestError("the body must be a JSON object")
    request = cast("dict[str, Any]", body)
    tools = request.get("tools")
    if isinstance(tools, list):
        # The simulated model calls functions only.
        functions = [tool for tool in cast("list[Any]", tools) if not _is_custom(tool)]
        request = {**request, "tools": functions}
    try:
        msgspec.convert(request, _Limits)
    except msgspec.ValidationError as error:
        # The text is, for example, "Expected `object`, got `int` - at `$.tools[1].function`".
        limit, _, path = str(error).partition(" - at `$.")
        raise InvalidRequestError(f"{path[:-1]}: {limit}", param=path[:-1]) from None
    known = known_params(agent=agent)
    params = {"model": None, "messages": None} | {name: request[name] for name in request if name in known}
    try:
        check_params(params, stream=bool(request.get("stream")), agent=agent)
    except InvalidRequestError as error:
        # The rest of the message tells users of this library how to send the value anyway.
        raise InvalidRequestError(str(error).partition("; to send it")[0], param=error.param) from None
    request = _allow_tools(request)
    names = [tool["function"]["name"] for tool in request.get("tools") or ()]
    choice = request.get("tool_choice")
    if choice in ("auto", "required") and not names:
        raise InvalidRequestError("tool_choice is allowed only with tools", param="tool_choice")
    if (
        isinstance(choice, dict)
        and cast("dict[str, Any]", choice).get("function", {}).get("name") not in names
    ):
        raise InvalidRequestError(f"tool_choice must name one of the tools, {names}", param="tool_choice")
    return request


def _is_custom(tool: Any) -> bool:
    return isinstance(tool, dict) and cast("dict[str, Any]", tool).get("type") == "custom"


def _allow_tools(request: dict[str, Any]) -> dict[str, Any]:
    """Return a checked request in which a choice of allowed tools has become these tools and the mode."""
    choice = request.get("tool_choice")
    if not isinstance(choice, dict) or "allowed_tools" not in choice:
        return request
    allowed = cast("dict[str, Any]", choice["allowed_tools"])
    names = {tool.get("function", {}).get("name") for tool in allowed["tools"]}
    tools = [tool for tool in request.get("tools") or () if tool["function"]["name"] in names]
    return {**request, "tools": tools, "tool_choice": allowed["mode"]}
