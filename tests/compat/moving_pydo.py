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
BROKEN = (
    "begin = head(200, {'content-type': 'text/event-stream', 'transfer-encoding': 'chunked'})\n"
    "server.push(reply_writes([begin, http_chunk(b'data: {'), http_chunk(b'')]))\n"
    "stream = await client.chat.completions.create(**ask, stream=True)\n"
    "try:\n    async for chunk in stream:\n        pass\n"
)

ROWS = {
    "a completion": Row(
        """
completion = await client.chat.completions.create(model="m", messages=messages, max_tokens=50)
seen = completion.choices[0].message.content, completion.usage.completion_tokens, server.requests[-1].json["max_tokens"]
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
        "server.push(reply_json(completion('Hi')))\n"
        "await client.chat.completions.create(**ask, temperature=None)\nseen = 'temperature' in server.requests[-1].json",
        True,
    ),
    # Changes
    "the import": Row(
        "from gradient_async import Gradient as Client\nseen = Client.__name__",
        "Gradient",
        before="from pydo.inference import Client\nseen = Client.__name__",
        seen_before="Client",
    ),
    "the import, with asyncio": Row(
        "from gradient_async import AsyncGradient as Client\nseen = Client.__name__",
        "AsyncGradient",
        before="from pydo.inference.aio import Client\nseen = Client.__name__",
        seen_before="Client",
        sync=False,
    ),
    "the key": Row(
        'client = bare(api_key="key", inference_endpoint=server.url)\nawait client.chat.completions.create(**ask)\n'
        'seen = server.requests[-1].headers["authorization"]\n# as in Client(api_key="key", ...)',
        "Bearer key",
        before='client = bare(token="key", inference_endpoint=server.url)\n'
        'await client.chat.completions.create(**ask)\nseen = server.requests[-1].headers["authorization"]\n'
        '# as in Client(token="key", ...) and Client("key", ...)',
    ),
    "keys of dictionaries": Row(
        "completion = await client.chat.completions.create(**ask)\nseen = completion.choices[0].message.content",
        "One, two, three.",
        before='completion = await client.chat.completions.create(**ask)\nseen = completion["choices"][0]["message"]["content"]',
    ),
    "`get`": Row(
        "stream = await client.chat.completions.create(**ask, stream=True)\n"
        'seen = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])\n'
        "delta = chunk = gradient_async.ChoiceDelta(content='Hi')\nassert delta.content == 'Hi'",
        "One, two, three.",
        before="stream = await client.chat.completions.create(**ask, stream=True)\ntext = ''\n"
        "async for chunk in stream:\n    for choice in chunk.choices:\n        delta = choice.delta\n"
        '        text += delta.get("content") or ""\nseen = text',
    ),
    "a field that the server left out": Row(
        "server.push(reply_json(completion('Hi')))\n"
        "done = await client.chat.completions.create(**ask)\nseen = done.service_tier",
        None,
        before="server.push(reply_json(completion('Hi')))\n"
        "done = await client.chat.completions.create(**ask)\n"
        "try:\n    done.service_tier\nexcept AttributeError as error:\n    seen = type(error).__name__",
        seen_before="AttributeError",
    ),
    "a field without a name": Row(
        "server.push(reply_json({**completion('Hi'), 'citations': ['a']}))\n"
        'completion = await client.chat.completions.create(**ask)\nseen = completion.body["citations"]',
        ["a"],
        before="server.push(reply_json({**completion('Hi'), 'citations': ['a']}))\n"
        "completion = await client.chat.completions.create(**ask)\nseen = completion.citations",
    ),
    "a reply as JSON": Row(
        'completion = await client.chat.completions.create(**ask)\nseen = json.loads(completion.to_json())["object"]',
        "chat.completion",
        before='completion = await client.chat.completions.create(**ask)\nseen = json.loads(json.dumps(completion))["object"]',
    ),
    "parameters without a name": Row(
        'await client.chat.completions.create(**ask, extra_body={"top_k": 5})\nseen = server.requests[-1].json["top_k"]',
        5,
        before='await client.chat.completions.create(**ask, top_k=5)\nseen = server.requests[-1].json["top_k"]',
    ),
    "headers and query of a call": Row(
        'await client.chat.completions.create(**ask, extra_headers={"X-Team": "search"}, extra_query={"page": "1"})\n'
        'seen = server.requests[-1].headers["x-team"], server.requests[-1].query',
        ("search", {"page": "1"}),
        before='await client.chat.completions.create(**ask, headers={"X-Team": "search"}, params={"page": "1"})\n'
        'seen = server.requests[-1].headers["x-team"], server.requests[-1].query',
    ),
    "retries": Row(
        "client = make(max_retries=0)\n"
        "try:\n    await client.chat.completions.create(model='error-503', messages=messages)\n"
        "except Exception:\n    seen = len(server.requests)",
        1,
        before="client = make(retry_total=0)\n"
        "try:\n    await client.chat.completions.create(model='error-503', messages=messages)\n"
        "except Exception:\n    seen = len(server.requests)",
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
        + "except gradient_async.StreamError as error:\n    seen = type(error).__mro__[1].__name__, error.partial.choices",
        ("StreamError", []),
        before="from pydo.exceptions import SSEStreamTransportError\n"
        + BROKEN
        + "except SSEStreamTransportError as error:\n    seen = type(error).__name__",
        seen_before="SSEStreamTransportError",
    ),
    "headers of the reply": Row(
        "completion = await client.chat.completions.create(**ask)\nseen = completion.headers['x-request-id'], completion.request_id",
        ("req-000001", "req-000001"),
        before="def keep(response):\n    seen.append(response.http_response.headers['x-request-id'])\n\nseen = []\n"
        "await client.chat.completions.create(**ask, raw_response_hook=keep)\nseen = seen[0], seen[0]",
    ),
    "an agent": Row(
        "client = bare(agent_access_key='key', agent_endpoint=server.url)\n"
        "completion = await client.agents.chat.completions.create(messages=messages)\n"
        "seen = completion.choices[0].message.content, server.requests[-1].headers['authorization']",
        ("One, two, three.", "Bearer key"),
        before="client = bare(token='key', agent_endpoint=server.url)\n"
        "completion = await client.agent.chat.completions.create(model='', messages=messages)\n"
        "seen = completion.choices[0].message.content, server.requests[-1].headers['authorization']",
    ),
    "`client.inference`": Row(
        "body = ask\ncompletion = await client.chat.completions.create(**body)\nseen = completion.choices[0].message.content",
        "One, two, three.",
        before="body = ask\ncompletion = await client.inference.create_chat_completion(body)\n"
        'seen = completion["choices"][0]["message"]["content"]',
    ),
    # Not there
    "`iter_sse_with_retry`, `async_iter_sse_with_retry`": Row(
        "server.push(reply_json({'message': 'busy'}, 503, {'retry-after-ms': '10'}))\n"
        "stream = await client.chat.completions.create(**ask, stream=True)\n"
        'seen = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])',
        "One, two, three.",
        before="from pydo.custom_extensions import iter_sse_with_retry, async_iter_sse_with_retry\nseen = True",
        seen_before=True,
    ),
    "`client.embeddings`, `client.images`, `client.audio`, `client.responses`, `client.messages`, `client.batches`, `client.files`": Row(
        "seen = []\nuse = ('pydo', 'openai', 'client.chat.completions.create(')\nfor name in 'embeddings images audio responses messages batches files'.split():\n"
        "    try:\n        getattr(client, name)\n    except AttributeError as error:\n        seen.append(any(name in str(error) for name in use))",
        [True] * 7,
        before="seen = [bool(each) for each in (client.embeddings, client.images, client.audio, client.responses, "
        "client.messages, client.batches, client.files)]",
    ),
    "`client.droplets` and the rest of DigitalOcean's API": Row(
        "try:\n    client.droplets\nexcept AttributeError as error:\n    seen = 'pydo' in str(error)",
        True,
        before="seen = bool(client.droplets)",
    ),
}
