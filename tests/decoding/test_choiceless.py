"""JSON without choices is told apart: errors, chunks, heartbeats, events of other APIs, and what nobody knows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradient_async.decoding import ErrorBody, OtherAPI
from gradient_async.decoding.choiceless import identify, is_heartbeat

OTHERS: list[tuple[str, str, str]] = [
    ("Responses", "response.created", '{"response":{"id":"r-9","output":[]},"sequence_number":0}'),
    ("Responses", "message", '{"type":"response.reasoning_text.delta","delta":"Let me"}'),
    ("Responses", "", '{"object":"response","status":"completed","output":[{"type":"message"}]}'),
    ("Responses", "", '{"id":"resp_1","status":"completed","output":[]}'),
    ("Assistants", "thread.message.delta", '{"id":"msg_7","delta":{"content":[]}}'),
    ("Assistants", "message", '{"object":"thread.run.step","id":"step_1"}'),
    ("Anthropic", "message_start", '{"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":3}}}'),
    ("Anthropic", "message", '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Go"}}'),
    ("Anthropic", "message", '{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}'),
    ("Anthropic", "", '{"type":"message","role":"assistant","content":[{"text":"Go"}],"stop_reason":"end_turn"}'),
    ("Gemini", "message", '{"candidates":[{"content":{"parts":[{"text":"Go"}]}}],"modelVersion":"g"}'),
    ("Gemini", "message", '{"promptFeedback":{"blockReason":"SAFETY"}}'),
    ("Gemini", "message", '{"usageMetadata":{"totalTokenCount":4}}'),
    ("Gemini", "", '[{"candidates":[{"content":{"parts":[{"text":"Go"}]}}]}]'),
    ("Ollama", "message", '{"model":"l","message":{"role":"assistant","content":"Go"},"done":false}'),
    ("Ollama", "message", '{"model":"l","response":"Go","done":false}'),
    ("text-generation", "message", '{"index":4,"token":{"id":5,"text":" on"},"generated_text":null}'),
    ("text-generation", "message", '{"generated_text":"Go on"}'),
    ("text-generation", "", '[{"generated_text":"Go on"}]'),
    ("text-generation", "message", '{"text":"Go","meta_info":{"id":"m"}}'),
    ("llama.cpp", "message", '{"content":"Go","stop":false,"id_slot":0}'),
    ("Cohere", "message", '{"type":"content-delta","delta":{"message":{"content":{"text":"Go"}}}}'),
    ("Cohere", "message", '{"event_type":"text-generation","text":"Go","is_finished":false}'),
    ("DashScope", "result", '{"output":{"text":"Go","finish_reason":"null"},"request_id":"q","usage":{"total_tokens":3}}'),
    ("Bedrock", "message", '{"contentBlockDelta":{"delta":{"text":"Go"}}}'),
    ("Dify", "message", '{"event":"message","answer":"Go","conversation_id":"v"}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "event", "text"), OTHERS)
def test_other_apis_have_names(name: str, event: str, text: str) -> None:
    found = identify(json.loads(text), event)
    assert isinstance(found, OtherAPI)
    assert name in found.name


EMPTY: list[dict[str, Any]] = [
    {"choices": []},
    {"choices": None, "id": "c"},
    {"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "object": ""},
    {"choices": [], "usage": {"total_tokens": 4}, "code": 200, "message": "success"},
    {"choices": [{"delta": {}}], "candidates": []},
    {"object": "chat.completion.chunk", "id": "c"},
    {"object": "text_completion"},
    {"usage": {"total_tokens": 4}},
    {"x_groq": {"id": "q"}},
    {"retrieval": {"retrieved_data": []}},
    {"guardrails": [1]},
    # Baidu's own API says that it is this one; a stream of it has no choices all the same.
    {"object": "chat.completion", "result": "Go", "is_end": False},
]


@pytest.mark.parametrize("body", EMPTY)
def test_chunks_that_bring_no_choice(body: Any) -> None:
    assert identify(body, "message") == "chunk"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"status": "processing", "position": 12},
        {"code": 200, "message": "success", "data": None},
        {"message": "warming up"},
        {"code": 0, "msg": "queued"},
        {"code": "200", "message": "OK"},
        {"code": 20000, "message": "Ok"},
        {"state": "running", "progress": 0.5},
        {"ts": 17},
        {"type": "ping"},
        {"type": "keep-alive", "answer": "x"},
        {"event": "heartbeat"},
        {"object": "ping", "id": "x"},
        {"status": 102, "message": "processing"},
        {"success": True, "errors": [], "message": ""},
        {"id": "req-1", "message": "model is loading"},
        {"base_resp": {"status_code": 0, "status_msg": ""}, "status": "ok"},
        {"error": None, "status": "ok"},
    ],
)
def test_heartbeats_tell_that_the_server_is_at_work(body: Any) -> None:
    assert identify(body, "message") == "heartbeat"


@pytest.mark.parametrize(
    "name", ["ping", "Heartbeat", "keepalive", "keep-alive", "keep_alive", "done", "PING"]
)
def test_heartbeats_by_the_name_of_the_event(name: str) -> None:
    assert is_heartbeat(name)
    assert identify({"at": 5, "answer": "x"}, name) == "heartbeat"


@pytest.mark.parametrize(
    "body",
    [
        None,
        5,
        "text",
        [],
        [5],
        {"answer": "Go"},
        {"status": "ok", "response": "Go"},
        {"code": 200, "data": {"choices": [{"message": {"content": "Go"}}]}},
        {"custom": 1},
    ],
)
def test_everything_else_is_unknown(body: Any) -> None:
    assert identify(body, "message") == "unknown"


ERRORS: list[tuple[str, dict[str, Any]]] = [
    ("message", {"choices": [{"delta": {}}], "error": {"message": "gone"}}),
    ("message", {"candidates": [], "error": {"code": 503, "message": "gone"}}),
    ("ping", {"error": "gone"}),
    ("response.failed", {"type": "error", "message": "gone"}),
    ("message", {"result": {"error": {"message": "gone"}}}),
]


@pytest.mark.parametrize(("name", "body"), ERRORS)
def test_an_error_is_one_whatever_else_is_there(name: str, body: Any) -> None:
    found = identify(body, name)
    assert isinstance(found, ErrorBody)
    assert found.message == "gone"
