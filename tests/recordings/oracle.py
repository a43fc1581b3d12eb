"""The oracle's words for an assembled stream, brought into ours, and where the two differ on purpose."""

from __future__ import annotations

from typing import Any

__all__ = [
    "DIFFERENCES",
    "actual_choice",
    "by_index",
    "differences",
    "expected_call",
    "expected_choice",
    "expected_logprobs",
    "expected_usage",
    "usage_of",
]

# What ours deliberately has otherwise than the oracle: the fields, and why. Nothing else may differ.
DIFFERENCES = {
    "object": "always chat.completion: the last step of a stream is a completion; a chunk's word is not kept",
    "id, model": "first non-empty rather than first non-null: an empty name names nothing",
    "id, model of an error": "an event that is an error is raised, not applied, its head included",
    "created": "whole seconds, and the first that is not 0: a float is cut, 0 stands for none",
    "role": "assistant where no server said it: a message without a role is no valid message",
    "reasoning": "kept in reasoning_content, which wins where both come",
    "thinking_parts_text": "thinking parts join reasoning_content",
    "tool_calls.type": "function where no server said it",
    "tool_calls.index": "told by the order alone: a message's calls have no index",
    "reasoning_details": "fragments of one type and index are joined: servers refuse fragments that are sent back",
    "logprobs": "other shapes than the API's are dropped, and so are fields unknown to it; an entry's"
    " log probability, bytes and alternatives that were left out have defaults",
    "usage": "that of x_groq counts where the chunk has none; fields that no server documents are dropped; a count that was left out or null is 0 or None;"
    " a count written as a float is whole",
    "done": "an event, [DONE] too, that lacks only its blank line at the end counts",
    "extras": "provider, x_groq, citations and the like are not modelled: unknown fields are dropped",
}


def expected_call(call: dict[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = call.get("function") or {}
    return {
        "id": call.get("id") or "",
        "type": call.get("type") or "function",
        "function": {"name": function.get("name") or "", "arguments": function.get("arguments") or ""},
    }


def expected_entry(entry: dict[str, Any]) -> dict[str, Any]:
    known = {
        "token": entry.get("token") or "",
        "logprob": -9999.0 if entry.get("logprob") is None else entry["logprob"],
        "bytes": entry.get("bytes"),
    }
    if "top_logprobs" in entry:
        known["top_logprobs"] = [expected_entry(top) for top in entry["top_logprobs"]]
    return known


def expected_logprobs(logprobs: Any) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    return {
        name: None if logprobs[name] is None else [expected_entry(entry) for entry in logprobs[name]]
        for name in ("content", "refusal")
    }


def expected_choice(choice: dict[str, Any]) -> dict[str, Any]:
    reasoning = choice["reasoning_content"]
    for other in (choice["reasoning"], choice.get("thinking_parts_text")):
        reasoning = other if reasoning is None else reasoning
    calls: list[dict[str, Any]] = choice.get("tool_calls_alt") or choice["tool_calls"] or []
    extras: dict[str, Any] = choice.get("extras") or {}
    return {
        "index": choice["index"],
        "role": choice["role"] or "assistant",
        "content": choice["content"],
        "refusal": choice["refusal"],
        "reasoning_content": reasoning,
        "tool_calls": [expected_call(call) for call in calls] or None,
        "function_call": choice["function_call"],
        "finish_reason": choice["finish_reason"],
        "content_parts": choice.get("content_parts"),
        "logprobs": expected_logprobs(choice["logprobs"]),
        "annotations": extras.get("annotations"),
        "audio": extras.get("audio"),
        "reasoning_details": expected_details(extras.get("reasoning_details")),
    }


def expected_details(fragments: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Join the fragments of one type and index."""
    if fragments is None:
        return None
    joined: list[dict[str, Any]] = []
    for fragment in fragments:
        key = (fragment.get("type"), fragment.get("index"))
        same = [entry for entry in joined if key == (entry.get("type"), entry.get("index"))]
        if key[1] is None or not same:
            joined.append(dict(fragment))
            continue
        for name, value in fragment.items():
            if name in ("text", "summary", "data"):
                same[0][name] = same[0].get(name, "") + value
            elif value:
                same[0][name] = value
    return joined


COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
CACHED = ("cache_created_input_tokens", "cache_read_input_tokens")
DETAILS: dict[str, tuple[str, ...]] = {
    "cache_creation": ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
    "prompt_tokens_details": (
        "cached_tokens", "audio_tokens", "text_tokens", "image_tokens", "video_tokens", "cache_write_tokens",
    ),
    "completion_tokens_details": (
        "reasoning_tokens", "audio_tokens", "text_tokens", "image_tokens",
        "accepted_prediction_tokens", "rejected_prediction_tokens",
    ),
}  # fmt: skip


def expected_usage(usage: Any) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        **{name: int(usage.get(name) or 0) for name in COUNTS},
        **{name: usage.get(name) for name in CACHED},
        **{
            name: None if usage.get(name) is None else {field: usage[name].get(field) for field in fields}
            for name, fields in DETAILS.items()
        },
    }


def actual_choice(choice: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = choice["message"]
    calls = message["tool_calls"]
    named = ("role", "content", "refusal", "reasoning_content", "function_call", "content_parts")
    return {
        "index": choice["index"],
        **{name: message[name] for name in (*named, "annotations", "audio", "reasoning_details")},
        "tool_calls": calls and [{name: call[name] for name in ("id", "type", "function")} for call in calls],
        "finish_reason": choice["finish_reason"],
        "logprobs": choice["logprobs"],
    }


def by_index(choice: dict[str, Any]) -> int:
    index: int = choice["index"]
    return index


def usage_of(expected: dict[str, Any]) -> Any:
    """Return the usage that the oracle saw, in its place or in Groq's."""
    groq: dict[str, Any] = expected["extras"].get("x_groq") or {}
    return expected["usage"] or groq.get("usage")


def differences(expected: dict[str, Any], actual: dict[str, Any], *, done: bool) -> set[str]:
    """Return under which of `DIFFERENCES` the oracle's answer, taken word for word, is not ours."""
    failed = bool(expected["errors"])
    usage: dict[str, Any] = actual["usage"] or {}
    found = {
        "object": expected["object"] != actual["object"],
        "id, model": (expected["id"], expected["model"]) != (actual["id"], actual["model"]) and not failed,
        "id, model of an error": failed and (expected["id"] or "") != actual["id"],
        "created": expected["created"] != actual["created"] and not failed,
        "usage": expected["usage"] != {name: count for name, count in usage.items() if count is not None}
        and usage_of(expected) is not None,
        "done": expected["stream"]["done"] != done,
        "extras": bool(expected["extras"]),
    }
    for choice, ours in zip(sorted(expected["choices"], key=by_index), actual["choices"], strict=True):
        message: dict[str, Any] = ours["message"]
        calls: list[dict[str, Any]] = choice["tool_calls"] or []
        extras: dict[str, Any] = choice.get("extras") or {}
        several = {
            "role": choice["role"] != message["role"],
            "reasoning": choice["reasoning"] is not None,
            "thinking_parts_text": choice.get("thinking_parts_text") is not None,
            "tool_calls.type": any(call["type"] != "function" for call in calls),
            "tool_calls.index": any("index" in call for call in calls),
            "reasoning_details": extras.get("reasoning_details") != message["reasoning_details"],
            "logprobs": choice["logprobs"] != ours["logprobs"],
        }
        for name, differs in several.items():
            found[name] = found.get(name, False) or differs
    return {name for name, differs in found.items() if differs}
