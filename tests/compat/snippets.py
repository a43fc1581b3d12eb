"""Code as it is written for the client ``gradient``, with the name of the package left open.

Each snippet is a program that may use ``await`` at its top level. It is run against the local server, whose
base URL and keys are in the environment, and leaves what it saw in ``seen``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SNIPPETS", "Snippet"]


@dataclass(frozen=True)
class Snippet:
    """A program and what it shall see.

    Attributes:
        source: The program; ``{package}`` stands for the package.
        seen: What it leaves in ``seen``.
        sent: Fields of the last request's body; a value of None stands for a field that was not sent.
    """

    source: str
    seen: Any
    sent: Mapping[str, Any] | None = None


SNIPPETS = {
    "await": Snippet(
        """
import os
from {package} import AsyncGradient

client = AsyncGradient(
    model_access_key=os.environ.get("GRADIENT_MODEL_ACCESS_KEY"),
)
completion = await client.chat.completions.create(
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Count to three."},
    ],
    model="llama3.3-70b-instruct",
    max_tokens=50,
    temperature=0.5,
)
choice = completion.choices[0]
seen = [
    completion.object,
    completion.model,
    choice.index,
    choice.finish_reason,
    choice.message.role,
    choice.message.content,
    choice.message.refusal,
    choice.logprobs,
    completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens,
]
await client.close()
""",
        [
            "chat.completion",
            "llama3.3-70b-instruct",
            0,
            "stop",
            "assistant",
            "One, two, three.",
            None,
            None,
            True,
        ],
        {"max_tokens": 50, "temperature": 0.5, "stream": None, "n": None},
    ),
    "environment and async with": Snippet(
        """
from {package} import AsyncGradient

async with AsyncGradient() as client:
    completion = await client.chat.completions.create(
        messages=[{"role": "user", "content": "Count to three."}], model="m"
    )
seen = [completion.choices[0].message.content, client.is_closed()]
""",
        ["One, two, three.", True],
    ),
    "stream": Snippet(
        """
from {package} import AsyncGradient

client = AsyncGradient()
stream = await client.chat.completions.create(
    messages=[{"role": "user", "content": "Count to three."}],
    model="m",
    stream=True,
    stream_options={"include_usage": True},
)
text = ""
reasons = []
usage = None
async for chunk in stream:
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
        if chunk.choices[0].finish_reason:
            reasons.append(chunk.choices[0].finish_reason)
    if chunk.usage:
        usage = chunk.usage
seen = [text, reasons, usage.completion_tokens, chunk.object, stream.response.status_code]
await client.close()
""",
        ["One, two, three.", ["stop"], 6, "chat.completion.chunk", 200],
        {"stream": True, "stream_options": {"include_usage": True}},
    ),
    "stream left early": Snippet(
        """
from {package} import AsyncGradient, AsyncStream

client = AsyncGradient()
first = []
stream = await client.chat.completions.create(
    messages=[{"role": "user", "content": "Tell me a story."}], model="m", stream=True
)
async with stream:
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            first.append(chunk.choices[0].delta.content)
            break

stream = await client.chat.completions.create(
    messages=[{"role": "user", "content": "Count to three."}], model="m", stream=True
)
is_stream = isinstance(stream, AsyncStream)
chunk = await stream.__anext__()
await stream.close()
seen = [first, is_stream, chunk.choices[0].delta.role]
await client.close()
""",
        [["Once"], True, "assistant"],
    ),
    "several choices with logprobs": Snippet(
        """
from {package} import AsyncGradient

async with AsyncGradient() as client:
    completion = await client.chat.completions.create(
        messages=[{"role": "user", "content": "Count to three."}],
        model="m",
        n=2,
        logprobs=True,
        top_logprobs=2,
        stop=["three"],
        user="somebody",
        logit_bias={"50256": -100},
        metadata={"team": "search"},
    )
entry = completion.choices[1].logprobs.content[0]
seen = [
    [choice.index for choice in completion.choices],
    entry.token,
    bytes(entry.bytes).decode(),
    entry.logprob <= 0,
    len(entry.top_logprobs),
    completion.choices[1].message.content,
]
""",
        [[0, 1], "One", "One", True, 2, "One, two, "],
        {"n": 2, "stop": ["three"], "logit_bias": {"50256": -100}, "metadata": {"team": "search"}},
    ),
    "tools, there and back": Snippet(
        """
import json
from {package} import AsyncGradient

tools = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather at a place",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}},
                "required": ["place"],
            },
        },
    }
]
async with AsyncGradient() as client:
    messages = [{"role": "user", "content": "What is the weather in Paris and Rome?"}]
    completion = await client.chat.completions.create(
        messages=messages, model="m", tools=tools, tool_choice="auto"
    )
    message = completion.choices[0].message
    calls = message.tool_calls
    names = [(call.type, call.function.name, json.loads(call.function.arguments)) for call in calls]
    messages.append(
        {
            "role": "assistant",
            "content": message.content,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
                for call in calls
            ],
        }
    )
    for call in calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    answer = await client.chat.completions.create(messages=messages, model="m", tools=tools)
seen = [completion.choices[0].finish_reason, names, answer.choices[0].message.content]
""",
        [
            "tool_calls",
            [("function", "weather", {"place": "Paris"}), ("function", "weather", {"place": "Rome"})],
            "According to the tools: sunny; sunny. That should answer your question.",
        ],
    ),
    "a reply's message sent back": Snippet(
        """
from {package} import AsyncGradient

async with AsyncGradient() as client:
    messages = [{"role": "user", "content": "Count to three."}]
    completion = await client.chat.completions.create(messages=messages, model="m")
    messages.append(completion.choices[0].message)
    messages.append({"role": "user", "content": "Count to two."})
    completion = await client.chat.completions.create(messages=messages, model="m")
seen = completion.choices[0].message.content
""",
        "One, two.",
    ),
    "tool calls in a stream": Snippet(
        """
import json
from {package} import AsyncGradient

tools = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
]
async with AsyncGradient() as client:
    stream = await client.chat.completions.create(
        messages=[{"role": "user", "content": "What is the weather in Paris and Rome?"}],
        model="m",
        tools=tools,
        stream=True,
    )
    calls = {}
    async for chunk in stream:
        for choice in chunk.choices:
            for delta in choice.delta.tool_calls or []:
                call = calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
                if delta.id:
                    call["id"] = delta.id
                if delta.function and delta.function.name:
                    call["name"] = delta.function.name
                if delta.function and delta.function.arguments:
                    call["arguments"] += delta.function.arguments
seen = [(index, bool(call["id"]), call["name"], json.loads(call["arguments"])) for index, call in calls.items()]
""",
        [(0, True, "weather", {"place": "Paris"}), (1, True, "weather", {"place": "Rome"})],
    ),
    "errors by class": Snippet(
        """
import {package}
from {package} import AsyncGradient

client = AsyncGradient(max_retries=0)
seen = []
for model in ("error-400", "error-401", "error-403", "error-404", "error-409", "error-422", "error-429", "error-500"):
    try:
        await client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], model=model)
    except {package}.BadRequestError as e:
        seen.append(("bad request", e.status_code))
    except {package}.AuthenticationError as e:
        seen.append(("authentication", e.status_code))
    except {package}.PermissionDeniedError as e:
        seen.append(("permission", e.status_code))
    except {package}.NotFoundError as e:
        seen.append(("not found", e.status_code))
    except {package}.ConflictError as e:
        seen.append(("conflict", e.status_code))
    except {package}.UnprocessableEntityError as e:
        seen.append(("unprocessable", e.status_code))
    except {package}.RateLimitError as e:
        seen.append(("rate limit", e.status_code))
    except {package}.InternalServerError as e:
        seen.append(("server", e.status_code))
await client.close()
""",
        [
            ("bad request", 400),
            ("authentication", 401),
            ("permission", 403),
            ("not found", 404),
            ("conflict", 409),
            ("unprocessable", 422),
            ("rate limit", 429),
            ("server", 500),
        ],
    ),
    "what an error tells": Snippet(
        """
import {package}
from {package} import AsyncGradient

client = AsyncGradient(max_retries=0)
try:
    await client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], model="error-429")
except {package}.APIConnectionError as e:
    print("The server could not be reached", e.__cause__)
except {package}.RateLimitError as e:
    seen = [
        e.status_code,
        e.response.status_code,
        e.response.headers.get("Retry-After"),
        e.response.headers["x-request-id"],
        e.body,
        e.response.json() == e.body,
        isinstance(e.message, str) and e.message in str(e),
        e.request.method,
        str(e.request.url).endswith("/v1/chat/completions"),
        isinstance(e, {package}.APIStatusError),
        isinstance(e, {package}.APIError),
        isinstance(e, {package}.GradientError),
        isinstance(e, Exception),
    ]
await client.close()
""",
        [
            429,
            429,
            "1",
            "req-000001",
            {"id": "too_many_requests", "message": "this error 429 was asked for by the name of the model"},
            True,
            True,
            "POST",
            True,
            True,
            True,
            True,
            True,
        ],
    ),
    "an error in the other shape": Snippet(
        """
import {package}
from {package} import AsyncGradient

client = AsyncGradient()
try:
    await client.chat.completions.create(
        messages=[{"role": "user", "content": "Hi"}], model="m", extra_body={"temperature": 9}
    )
except {package}.BadRequestError as e:
    seen = e.body
await client.close()
""",
        {
            "error": {
                "message": "temperature=9: expected `float` <= 2.0 (documented: 0 to 2)",
                "type": "invalid_request_error",
                "code": None,
                "param": "temperature",
            }
        },
    ),
    "no connection": Snippet(
        """
import {package}
from {package} import AsyncGradient

client = AsyncGradient(base_url="http://127.0.0.1:9/v1", max_retries=0)
try:
    await client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], model="m")
except {package}.APITimeoutError:
    seen = "timeout"
except {package}.APIConnectionError as e:
    seen = ["connection", e.body, str(e.request.url), hasattr(e, "message")]
await client.close()
""",
        ["connection", None, "http://127.0.0.1:9/v1/chat/completions", True],
    ),
    "timeouts": Snippet(
        """
import {package}
from {package} import AsyncGradient

class Limits:
    connect = 2.0
    read = 0.1
    write = 2.0
    pool = 2.0

seen = []
client = AsyncGradient(timeout=0.1, max_retries=0)
for attempt in (
    client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], model="error-stall"),
    client.with_options(timeout=0.05).chat.completions.create(
        messages=[{"role": "user", "content": "Hi"}], model="error-stall"
    ),
    client.chat.completions.create(
        messages=[{"role": "user", "content": "Hi"}], model="error-stall", timeout=0.05
    ),
):
    try:
        await attempt
    except {package}.APITimeoutError as e:
        seen.append(isinstance(e, {package}.APIConnectionError))
completion = await client.with_options(timeout=None).chat.completions.create(
    messages=[{"role": "user", "content": "Count to three."}], model="m"
)
seen.append(completion.choices[0].finish_reason)
await client.close()
""",
        [True, True, True, "stop"],
    ),
    "a timeout of httpx": Snippet(
        """
import httpx
import {package}
from {package} import AsyncGradient

client = AsyncGradient(timeout=httpx.Timeout(60.0, read=0.1, write=10.0, connect=2.0), max_retries=0)
try:
    await client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], model="error-stall")
except {package}.APITimeoutError:
    seen = "timeout"
await client.close()
""",
        "timeout",
    ),
    "retries": Snippet(
        """
import {package}
from {package} import AsyncGradient

client = AsyncGradient(max_retries=1)
try:
    await client.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], model="error-503")
except {package}.InternalServerError:
    twice = len(server.requests)
try:
    await client.with_options(max_retries=0).chat.completions.create(
        messages=[{"role": "user", "content": "Hi"}], model="error-503"
    )
except {package}.InternalServerError:
    once = len(server.requests) - twice
seen = [twice, once, client.max_retries]
await client.close()
""",
        [2, 1, 1],
    ),
    "not given": Snippet(
        """
from {package} import AsyncGradient, NOT_GIVEN, NotGiven, omit

client = AsyncGradient()
await client.chat.completions.create(
    messages=[{"role": "user", "content": "Hi"}],
    model="m",
    temperature=omit,
    max_tokens=omit,
    stop=omit,
    tools=omit,
    stream=omit,
    top_p=None,
    timeout=NOT_GIVEN,
)
seen = [bool(NOT_GIVEN), bool(omit), isinstance(NOT_GIVEN, NotGiven)]
await client.close()
""",
        [False, False, True],
        {"temperature": None, "max_tokens": None, "stop": None, "tools": None, "stream": None, "model": "m"},
    ),
    "copies": Snippet(
        """
from {package} import AsyncGradient

client = AsyncGradient(default_headers={"X-One": "1"})
copy = client.copy(default_headers={"X-Two": "2"}, default_query={"page": "3"}, max_retries=5)
other = copy.with_options(set_default_headers={"X-Three": "3"}, model_access_key="another")
await copy.chat.completions.create(messages=[{"role": "user", "content": "Hi"}], model="m")
first = server.requests[-1]
await other.chat.completions.create(
    messages=[{"role": "user", "content": "Hi"}],
    model="m",
    extra_headers={"X-Four": "4"},
    extra_query={"q": "5"},
    extra_body={"seed": 6},
)
second = server.requests[-1]
seen = [
    [first.headers.get(name) for name in ("x-one", "x-two", "authorization")],
    first.query,
    [second.headers.get(name) for name in ("x-one", "x-three", "x-four", "authorization")],
    second.query,
    copy.max_retries,
    client.max_retries,
]
await client.close()
""",
        [
            ["1", "2", "Bearer model-key"],
            {"page": "3"},
            [None, "3", "4", "Bearer another"],
            {"page": "3", "q": "5"},
            5,
            2,
        ],
        {"seed": 6},
    ),
    "plain data": Snippet(
        """
import json
from {package} import AsyncGradient

async with AsyncGradient() as client:
    completion = await client.chat.completions.create(
        messages=[{"role": "user", "content": "Count to three."}], model="m"
    )
dumped = completion.model_dump()
sparse = completion.model_dump(exclude_none=True)
seen = [
    dumped["choices"][0]["message"]["content"],
    dumped["choices"][0]["logprobs"],
    "logprobs" in sparse["choices"][0],
    json.loads(completion.model_dump_json())["model"],
    json.loads(completion.to_json())["choices"][0]["finish_reason"],
    completion.to_dict()["usage"]["total_tokens"] == completion.usage.total_tokens,
    completion.model_dump(include={"id", "object"}).keys() == {"id", "object"},
    "\\n" in completion.to_json(),
    "\\n" in completion.model_dump_json(),
]
""",
        ["One, two, three.", None, False, "m", "stop", True, True, True, False],
    ),
    "raw response": Snippet(
        """
from {package} import AsyncGradient

client = AsyncGradient()
response = await client.chat.completions.with_raw_response.create(
    messages=[{"role": "user", "content": "Count to three."}], model="m"
)
completion = await response.parse()
seen = [
    response.headers.get("X-Request-Id"),
    response.status_code,
    completion.choices[0].message.content,
    str(response.url).endswith("/v1/chat/completions"),
    response.method,
    response.http_version,
    response.elapsed.total_seconds() > 0,
    response.retries_taken,
]
await client.close()
""",
        ["req-000001", 200, "One, two, three.", True, "POST", "HTTP/1.1", True, 0],
    ),
    "raw response of a stream": Snippet(
        """
from {package} import AsyncGradient

client = AsyncGradient()
response = await client.chat.completions.with_raw_response.create(
    messages=[{"role": "user", "content": "Count to three."}], model="m", stream=True
)
stream = await response.parse()
seen = [response.headers["content-type"], ""]
async for chunk in stream:
    for choice in chunk.choices:
        seen[1] += choice.delta.content or ""
await client.close()
""",
        ["text/event-stream", "One, two, three."],
    ),
    "streaming response": Snippet(
        """
import json
from {package} import AsyncGradient

client = AsyncGradient()
async with client.chat.completions.with_streaming_response.create(
    messages=[{"role": "user", "content": "Count to three."}], model="m"
) as response:
    header = response.headers.get("X-Request-Id")
    lines = [line async for line in response.iter_lines()]

async with client.chat.completions.with_streaming_response.create(
    messages=[{"role": "user", "content": "Count to three."}], model="m"
) as response:
    parsed = await response.parse()

async with client.chat.completions.with_streaming_response.create(
    messages=[{"role": "user", "content": "Count to three."}], model="m", stream=True
) as response:
    events = [line async for line in response.iter_lines() if line]
seen = [
    header,
    json.loads("".join(lines))["choices"][0]["message"]["content"],
    parsed.choices[0].message.content,
    events[0].startswith("data: {"),
    events[-1],
]
await client.close()
""",
        ["req-000001", "One, two, three.", "One, two, three.", True, "data: [DONE]"],
    ),
    "agents": Snippet(
        """
import os
from {package} import AsyncGradient

client = AsyncGradient(
    agent_access_key=os.environ.get("GRADIENT_AGENT_ACCESS_KEY"),
    base_url=os.environ.get("GRADIENT_BASE_URL"),
)
completion = await client.agents.chat.completions.create(
    messages=[{"role": "user", "content": "Count to three."}],
    model="ignored",
    extra_body={"include_retrieval_info": True},
)
stream = await client.agents.chat.completions.create(
    messages=[{"role": "user", "content": "Count to three."}], model="ignored", stream=True
)
text = ""
async for chunk in stream:
    for choice in chunk.choices:
        text += choice.delta.content or ""
request = server.requests[-1]
seen = [
    completion.choices[0].message.content,
    text,
    request.query,
    request.headers["authorization"],
    AsyncGradient(agent_endpoint="abc.agents.do-ai.run").agent_endpoint,
]
await client.close()
""",
        [
            "One, two, three.",
            "One, two, three.",
            {"agent": "true"},
            "Bearer agent-key",
            "https://abc.agents.do-ai.run",
        ],
    ),
    "a broken stream is an APIError": Snippet(
        """
import {package}
from {package} import AsyncGradient

client = AsyncGradient()
stream = await client.chat.completions.create(
    messages=[{"role": "user", "content": "Count to three."}], model="error-stream", stream=True
)
text = ""
try:
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
except {package}.APIError as e:
    seen = [text, "asked for" in e.message]
await client.close()
""",
        ["One, two,", True],
    ),
}
