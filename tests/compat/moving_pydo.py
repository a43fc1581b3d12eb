"""The programs behind the tables of docs/moving.md for `pydo`."""

from __future__ import annotations

from moving import Row

__all__ = ["ROWS"]

ERRORS = """
client = make({})
seen = []
for model in ("error-401", "error-404", "error-429"):
    try:
        await client.chat.completions.create(model=model, messages=messages)
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        seen.append((kinds[0], error.status_code, {!r} in kinds))
"""
BROKEN = """
begin = head(200, {'content-type': 'text/event-stream', 'transfer-encoding': 'chunked'})
server.push(reply_writes([begin, http_chunk(b'data: {'), http_chunk(b'')]))
stream = await client.chat.completions.create(**ask, stream=True)
try:
    async for chunk in stream:
        pass
"""

ROWS = {
    "a completion": Row(
        """
completion = await client.chat.completions.create(model="m", messages=messages, max_tokens=50)
sent = server.requests[-1].json["max_tokens"]
seen = completion.choices[0].message.content, completion.usage.completion_tokens, sent
""",
        ("One, two, three.", 6, 50),
    ),
    "a stream": Row(
        """
stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
async with stream:
    async for chunk in stream:
        seen = chunk.choices[0].finish_reason
""",
        "stop",
    ),
    "the list of models": Row(
        "seen = [model.id for model in (await client.models.list()).data][0]",
        "simulated",
    ),
    "closing": Row(
        """
async with make() as client:
    await client.chat.completions.create(**ask)
await make().close()
seen = len(server.requests)
""",
        1,
    ),
    "None for a parameter": Row(
        """
server.push(reply_json(completion('Hi')))
await client.chat.completions.create(**ask, temperature=None)
seen = 'temperature' in server.requests[-1].json
""",
        True,
    ),
    # Changes
    "the import": Row(
        """
from gradient_async import Gradient as Client
seen = Client.__name__
""",
        "Gradient",
        before="""
from pydo.inference import Client
seen = Client.__name__
""",
        seen_before="Client",
    ),
    "the import, with asyncio": Row(
        """
from gradient_async import AsyncGradient as Client
seen = Client.__name__
""",
        "AsyncGradient",
        before="""
from pydo.inference.aio import Client
seen = Client.__name__
""",
        seen_before="Client",
        sync=False,
    ),
    "the key": Row(
        """
from gradient_async import AsyncGradient as Client

client = Client(api_key="key", inference_endpoint=server.url)
await client.chat.completions.create(**ask)
await client.close()
seen = server.requests[-1].headers["authorization"]
""",
        "Bearer key",
        before="""
from pydo.inference.aio import Client

one = Client(token="key", inference_endpoint=server.url)
two = Client("key", inference_endpoint=server.url)
for client in one, two:
    await client.chat.completions.create(**ask)
    await client.close()
seen = server.requests[-1].headers["authorization"]
""",
    ),
    "keys of dictionaries": Row(
        """
completion = await client.chat.completions.create(**ask)
seen = completion.choices[0].message.content
""",
        "One, two, three.",
        before="""
completion = await client.chat.completions.create(**ask)
seen = completion["choices"][0]["message"]["content"]
""",
    ),
    "`get`": Row(
        """
stream = await client.chat.completions.create(**ask, stream=True)
seen = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
delta = chunk = gradient_async.ChoiceDelta(content='Hi')
assert delta.content == 'Hi'
""",
        "One, two, three.",
        before="""
stream = await client.chat.completions.create(**ask, stream=True)
text = ''
async for chunk in stream:
    for choice in chunk.choices:
        delta = choice.delta
        text += delta.get("content") or ""
seen = text
""",
    ),
    "a field that the server left out": Row(
        """
server.push(reply_json(completion('Hi')))
done = await client.chat.completions.create(**ask)
seen = done.service_tier
""",
        None,
        before="""
server.push(reply_json(completion('Hi')))
done = await client.chat.completions.create(**ask)
try:
    done.service_tier
except AttributeError as error:
    seen = type(error).__name__
""",
        seen_before="AttributeError",
    ),
    "a field without a name": Row(
        """
server.push(reply_json({**completion('Hi'), 'citations': ['a']}))
completion = await client.chat.completions.create(**ask)
seen = completion.body["citations"]
""",
        ["a"],
        before="""
server.push(reply_json({**completion('Hi'), 'citations': ['a']}))
completion = await client.chat.completions.create(**ask)
seen = completion.citations
""",
    ),
    "a reply as JSON": Row(
        """
completion = await client.chat.completions.create(**ask)
seen = json.loads(completion.to_json())["object"]
""",
        "chat.completion",
        before="""
completion = await client.chat.completions.create(**ask)
seen = json.loads(json.dumps(completion))["object"]
""",
    ),
    "parameters without a name": Row(
        """
await client.chat.completions.create(**ask, extra_body={"top_k": 5})
seen = server.requests[-1].json["top_k"]
""",
        5,
        before="""
await client.chat.completions.create(**ask, top_k=5)
seen = server.requests[-1].json["top_k"]
""",
    ),
    "headers and query of a call": Row(
        """
await client.chat.completions.create(**ask, extra_headers={"X-Team": "search"}, extra_query={"page": "1"})
seen = server.requests[-1].headers["x-team"], server.requests[-1].query
""",
        ("search", {"page": "1"}),
        before="""
await client.chat.completions.create(**ask, headers={"X-Team": "search"}, params={"page": "1"})
seen = server.requests[-1].headers["x-team"], server.requests[-1].query
""",
    ),
    "retries": Row(
        """
client = make(max_retries=0)
try:
    await client.chat.completions.create(model='error-503', messages=messages)
except Exception:
    seen = len(server.requests)
""",
        1,
        before="""
client = make(retry_total=0)
try:
    await client.chat.completions.create(model='error-503', messages=messages)
except Exception:
    seen = len(server.requests)
""",
    ),
    "errors of the server": Row(
        ERRORS.format("max_retries=0", "APIStatusError"),
        [("AuthenticationError", 401, True), ("NotFoundError", 404, True), ("RateLimitError", 429, True)],
        before=ERRORS.format("retry_total=0", "HttpResponseError"),
        seen_before=[
            ("ClientAuthenticationError", 401, True),
            ("ResourceNotFoundError", 404, True),
            ("HttpResponseError", 429, True),
        ],
    ),
    "errors of a stream": Row(
        BROKEN
        + """
except gradient_async.StreamError as error:
    seen = type(error).__mro__[1].__name__, error.partial.choices
""",
        ("StreamError", []),
        before="""
from pydo.exceptions import SSEStreamTransportError
"""
        + BROKEN
        + """
except SSEStreamTransportError as error:
    seen = type(error).__name__
""",
        seen_before="SSEStreamTransportError",
    ),
    "headers of the reply": Row(
        """
completion = await client.chat.completions.create(**ask)
seen = completion.headers['x-request-id'], completion.request_id
""",
        ("req-000001", "req-000001"),
        before="""
def keep(response):
    seen.append(response.http_response.headers['x-request-id'])

seen = []
await client.chat.completions.create(**ask, raw_response_hook=keep)
seen = seen[0], seen[0]
""",
    ),
    "an agent": Row(
        """
client = bare(agent_access_key='key', agent_endpoint=server.url)
completion = await client.agents.chat.completions.create(messages=messages)
seen = completion.choices[0].message.content, server.requests[-1].headers['authorization']
""",
        ("One, two, three.", "Bearer key"),
        before="""
client = bare(token='key', agent_endpoint=server.url)
completion = await client.agent.chat.completions.create(model='', messages=messages)
seen = completion.choices[0].message.content, server.requests[-1].headers['authorization']
""",
    ),
    "`client.inference`": Row(
        """
body = ask
completion = await client.chat.completions.create(**body)
seen = completion.choices[0].message.content
""",
        "One, two, three.",
        before="""
body = ask
completion = await client.inference.create_chat_completion(body)
seen = completion["choices"][0]["message"]["content"]
""",
    ),
    # Not there
    "`iter_sse_with_retry`, `async_iter_sse_with_retry`": Row(
        """
server.push(reply_json({'message': 'busy'}, 503, {'retry-after-ms': '10'}))
stream = await client.chat.completions.create(**ask, stream=True)
seen = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
""",
        "One, two, three.",
        before="""
from pydo.custom_extensions import iter_sse_with_retry, async_iter_sse_with_retry
seen = True
""",
        seen_before=True,
    ),
    "`client.embeddings`, `client.images`, `client.audio`, `client.responses` and others": Row(
        """
seen = []
use = "pydo", "openai", "client.chat.completions.create("
for name in ("embeddings", "images", "audio", "responses", "messages", "batches", "files"):
    try:
        getattr(client, name)
    except AttributeError as error:
        seen.append(any(each in str(error) for each in use))
""",
        [True] * 7,
        before="""
found = client.embeddings, client.images, client.audio, client.responses
seen = [each is not None for each in (*found, client.messages, client.batches, client.files)]
""",
    ),
    "`client.droplets` and the rest of DigitalOcean's API": Row(
        """
try:
    client.droplets
except AttributeError as error:
    seen = 'pydo' in str(error)
""",
        True,
        before="seen = bool(client.droplets)",
    ),
}
