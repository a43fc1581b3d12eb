"""What JSON without choices is: an error, a chunk that brings none, a heartbeat, or an event of another API.

An answer is a choice. Servers send much else, and only a look at the names of its fields tells what that is. Nothing of
it may pass for an empty answer: whoever gets a stream without a single choice was sent to another API, or past a gateway
that does not pass answers on.

The stream and the awaited path ask the same function, `identify`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

from .error_bodies import ErrorBody, find_error, find_inner_error
from .normalize import first_of, is_object


class OtherAPI(NamedTuple):
    """JSON of an API that is not this one.

    Attributes:
        name: The API, as a noun phrase.
    """

    name: str


# "chunk": it belongs to a completion, and brings usage or nothing. "heartbeat": the server tells that it is at work.
Choiceless: TypeAlias = ErrorBody | OtherAPI | Literal["chunk", "heartbeat", "unknown"]

_RESPONSES = "the Responses API"
_ANTHROPIC = "Anthropic's Messages API"
_GEMINI = "Gemini's API"
_OLLAMA = "Ollama's API"
_COHERE = "Cohere's API"
_TEXT_GENERATION = "a text-generation server"

# Other APIs by the beginning of their types, which are also the names of their events.
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
# Other APIs by fields that no chunk has, each with its type: one of these sets is enough.
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

# Names of events, types and data that only tell that the connection is alive, as `is_heartbeat` writes them.
_HEARTBEATS = frozenset({"ping", "heartbeat", "keepalive", "done"})
# Fields of an object that tells the server's progress, and of one that may hold an answer under an unknown name.
_PROGRESS = frozenset(
    {"status", "state", "message", "msg", "code", "progress", "position", "queue_position", "eta", "ts", "time",
     "timestamp", "ping", "heartbeat", "keepalive"}
)  # fmt: skip
_ANSWER = frozenset(
    {"answer", "completion", "content", "data", "delta", "output", "response", "result", "text", "token"}
)
# Fields of a chunk that count without choices.
_CHUNK = ("usage", "x_groq", "retrieval", "functions", "guardrails")


def identify(body: Any, name: str = "") -> Choiceless:
    """Say what JSON without choices is.

    Args:
        body: Decoded JSON: the payload of an event, or the body of a 2xx reply. Of a list the first item counts.
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
    """Whether the name of an event, or its data, only tells that the connection is alive."""
    return word.lower().replace("-", "").replace("_", "") in _HEARTBEATS


def _api_of(body: dict[str, Any], name: str) -> str | None:
    for kind in (body.get("type"), body.get("event_type"), body.get("object"), name):
        if isinstance(kind, str):
            for start, api in _TYPES.items():
                if kind.startswith(start):
                    return api
    if body.get("object") == "response":
        return _RESPONSES
    for fields, api in _FIELDS:
        if all(isinstance(body.get(field), kind) for field, kind in fields.items()):
            return api
    return None
