"""Identifies JSON without choices: an error, a chunk with other fields, a heartbeat, or an event of another API.

Only choices are an answer. Servers also send JSON without choices, and only the names of its fields show what it means. Such
JSON must not pass for an empty answer: if a stream has no choice at all, the request went to another API, or a gateway dropped
the answer.

Streams and awaited replies use the same function, `identify`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

from ..types.messages import REPLY_FIELDS
from .error_bodies import ErrorBody, find_error, find_inner_error
from .normalize import first_of, is_object


class OtherAPI(NamedTuple):
    """The result for JSON of another API.

    Attributes:
        name: The API, as a noun phrase.
    """

    name: str


# "chunk": the JSON belongs to a completion, and has usage or nothing. "heartbeat": the JSON only shows that the server is at
# work.
Choiceless: TypeAlias = ErrorBody | OtherAPI | Literal["chunk", "heartbeat", "unknown"]

_RESPONSES = "the Responses API"
_ANTHROPIC = "Anthropic's Messages API"
_GEMINI = "Gemini's API"
_OLLAMA = "Ollama's API"
_COHERE = "Cohere's API"
_TEXT_GENERATION = "a text-generation server"

# Beginnings of the types of other APIs. The names of their events begin in the same way.
_TYPES: dict[str, str] = {
    "response.": _RESPONSES,
    "thread.": "the Assistants API",
    "message_": _ANTHROPIC,
    "content_block_": _ANTHROPIC,
    "content-": _COHERE,
    "message-": _COHERE,
    "text-generation": _COHERE,
    "stream-start": _COHERE,
}
# Sets of fields, with their types, that no chunk has. JSON with all fields of a set belongs to the named API.
_FIELDS: tuple[tuple[dict[str, type], str], ...] = (
    ({"candidates": list}, _GEMINI),
    ({"promptFeedback": dict}, _GEMINI),
    ({"usageMetadata": dict}, _GEMINI),
    ({"message": dict, "done": bool}, _OLLAMA),
    ({"response": str, "done": bool}, _OLLAMA),
    ({"token": dict}, _TEXT_GENERATION),
    ({"generated_text": str}, _TEXT_GENERATION),
    ({"text": str, "meta_info": dict}, _TEXT_GENERATION),
    ({"content": str, "stop": bool}, "llama.cpp's own API"),
    ({"content": list, "stop_reason": str}, _ANTHROPIC),
    ({"output": list, "status": str}, _RESPONSES),
    ({"output": dict, "request_id": str}, "DashScope's own API"),
    ({"contentBlockDelta": dict}, "Bedrock's Converse API"),
    ({"answer": str, "event": str}, "Dify's API"),
)

# Names of events and types that only show that the connection is alive. `is_heartbeat` compares them in lower case and
# without "-" and "_".
_HEARTBEATS = frozenset({"ping", "heartbeat", "keepalive", "done"})
# Fields that describe the progress of a server, and fields in which an unknown API may have an answer.
_PROGRESS = frozenset(
    {"status", "state", "message", "msg", "code", "progress", "position", "queue_position", "eta", "ts", "time",
     "timestamp", "ping", "heartbeat", "keepalive"}
)  # fmt: skip
_ANSWER = frozenset(
    {"answer", "completion", "content", "data", "delta", "output", "response", "result", "text", "token"}
)
# Fields that make JSON without choices a chunk.
_CHUNK = ("usage", "x_groq", *REPLY_FIELDS)


def identify(body: Any, name: str = "") -> Choiceless:
    """Return what JSON without choices is.

    Args:
        body: Decoded JSON: the payload of an event, or the body of a 2xx reply. If it is a list, the first item counts.
        name: The name of the event.
    """
    error = find_error(body)
    if error is not None:
        return error
    first = first_of(body)
    if not is_object(first):
        return "unknown"
    if "choices" in first:
        return "chunk"
    words = [name, *(first.get(field) for field in ("type", "event", "object"))]
    if any(isinstance(word, str) and is_heartbeat(word) for word in words):
        return "heartbeat"
    api = _api_of(first, name)
    if api is not None:
        return OtherAPI(api)
    if "completion" in str(first.get("object")) or any(first.get(field) for field in _CHUNK):
        return "chunk"
    if not first or not (_PROGRESS.isdisjoint(first) or any(first.get(field) for field in _ANSWER)):
        return "heartbeat"
    return find_inner_error(first) or "unknown"


def is_heartbeat(word: str) -> bool:
    """Whether this name of an event, or this type, only shows that the connection is alive."""
    return word.lower().replace("-", "").replace("_", "") in _HEARTBEATS


def _api_of(body: dict[str, Any], name: str) -> str | None:
    for kind in (body.get("type"), body.get("event_type"), body.get("object"), name):
        if isinstance(kind, str):
            for start, api in _TYPES.items():
                if kind.startswith(start):
                    return api
    for fields, api in _FIELDS:
        if all(isinstance(body.get(field), kind) for field, kind in fields.items()):
            return api
    return None
