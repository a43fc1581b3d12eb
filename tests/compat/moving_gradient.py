"""The programs behind the tables of docs/moving.md for `gradient`."""

from __future__ import annotations

from moving import Row

__all__ = ["CALLS", "ROWS"]

LIMITED = """
seen = []
for timeout in (0.05, limits):
    client = make(timeout=timeout, max_retries=0)
    try:
        await client.chat.completions.create(model="error-stall", messages=messages)
    except package.APITimeoutError as error:
        seen.append(type(error).__name__)
"""
# What stays the same for users of `openai`, too.
CALLS = {
    "a completion": Row(
        """
completion = await client.chat.completions.create(
    model="m", messages=messages, temperature=0.5, max_tokens=50, n=2, stop=["!"], logprobs=True
)
seen = [
    completion.choices[0].message.content,
    completion.choices[1].finish_reason,
    completion.choices[0].logprobs.content[0].token,
    completion.usage.total_tokens,
    server.requests[-1].json["stop"],
]
""",
        ["One, two, three.", "stop", "One", 24, ["!"]],
    ),
    "a stream": Row(
        """
stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
text = ""
async for chunk in stream:
    text += chunk.choices[0].delta.content or ""

stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
async with stream:
    async for chunk in stream:
        break
await stream.close()
seen = [text, stream.response.status_code]
""",
        ["One, two, three.", 200],
    ),
    "a conversation": Row(
        """
completion = await client.chat.completions.create(**ask)
messages.append(completion.choices[0].message)
messages.append(completion.choices[0].message.model_dump(exclude_none=True))
await client.chat.completions.create(**ask)
sent = server.requests[-1].json["messages"]
seen = [message["content"] for message in sent], [message["role"] for message in sent]
""",
        (["Count to three.", *["One, two, three."] * 2], ["user", "assistant", "assistant"]),
    ),
    "plain data": Row(
        """
completion = await client.chat.completions.create(**ask)
seen = [
    completion.to_dict()["choices"][0]["finish_reason"],
    json.loads(completion.to_json())["model"],
    completion.model_dump(include={"choices": {0: {"message": {"content"}}}}),
    json.loads(completion.model_dump_json())["object"],
]
""",
        ["stop", "m", {"choices": [{"message": {"content": "One, two, three."}}]}, "chat.completion"],
    ),
    "errors": Row(
        """
client = make(max_retries=0)
seen = []
try:
    await client.chat.completions.create(model="error-429", messages=messages)
except package.RateLimitError as error:
    seen = [error.status_code, error.response.headers["retry-after"], error.body["id"], error.request.method]
    seen.append(isinstance(error, package.APIStatusError) and isinstance(error, package.APIError))
client = make(base_url="http://127.0.0.1:9/v1", max_retries=0)
try:
    await client.chat.completions.create(**ask)
except package.APITimeoutError:
    seen = None
except package.APIConnectionError as error:
    seen.append(str(error.request.url))
""",
        [429, "1", "too_many_requests", "POST", True, "http://127.0.0.1:9/v1/chat/completions"],
    ),
    "options": Row(
        """
client = make(timeout=20.0, max_retries=0, default_headers={"X-Team": "search"}, default_query={"page": 1})
client = client.with_options(default_headers={"X-One": "1"}).copy(timeout=None)
await client.chat.completions.create(**ask)
request = server.requests[-1]
seen = request.headers["x-team"], request.headers["x-one"], request.query
""",
        ("search", "1", {"page": "1"}),
    ),
    "a limit of time": Row(
        "class Limits:\n    connect = read = write = pool = 0.05\n\nlimits = Limits()" + LIMITED,
        ["APITimeoutError"] * 2,
        before="limits = package.Timeout(0.05)" + LIMITED,
    ),
    "options of a call": Row(
        """
await client.chat.completions.create(
    **ask, timeout=20, extra_headers={"X-Team": "search"}, extra_query={"page": "1"}, extra_body={"seed": 7}
)
request = server.requests[-1]
seen = request.headers["x-team"], request.query, request.json["seed"]
""",
        ("search", {"page": "1"}, 7),
    ),
    "what is not given": Row(
        """
from {package} import NOT_GIVEN, omit

await client.chat.completions.create(**ask, temperature=omit, stop=omit, timeout=NOT_GIVEN)
seen = sorted(server.requests[-1].json)
""",
        ["messages", "model"],
    ),
    "raw responses, with asyncio": Row(
        """
async with client.chat.completions.with_streaming_response.create(**ask) as response:
    lines = [line async for line in response.iter_lines()]
response = await client.chat.completions.with_raw_response.create(**ask)
seen = response.headers["x-request-id"], response.status_code, "One, two, three." in "".join(lines)
""",
        ("req-000002", 200, True),
        sync=False,
    ),
    "annotations": Row(
        """
from {package} import AsyncStream
from gradient_async import ChatCompletionChunk

async def show(stream: AsyncStream[ChatCompletionChunk]) -> None: ...

stream = await client.chat.completions.create(**ask, stream=True)
seen = isinstance(stream, AsyncStream), str(AsyncStream[ChatCompletionChunk]) != ""
await stream.close()
""",
        (True, True),
    ),
    "mocks": Row(
        """
client.chat.completions.create = mock.AsyncMock(return_value="patched")
seen = [await client.chat.completions.create(**ask)]
with mock.patch.object(client.chat.completions, "create", mock.AsyncMock(return_value="other")):
    seen.append(await client.chat.completions.create(**ask))
seen.append(len(server.requests))
""",
        ["patched", "other", 0],
    ),
}

ENVIRONMENT = """
os.environ["GRADIENT_BASE_URL"] = server.url + "/v1"
os.environ.update(GRADIENT_MODEL_ACCESS_KEY="one", GRADIENT_AGENT_ACCESS_KEY="two")
client = AsyncGradient()
await client.chat.completions.create(**ask)
await client.agents.chat.completions.create(**ask)
for name in ("GRADIENT_MODEL_ACCESS_KEY", "GRADIENT_AGENT_ACCESS_KEY", "GRADIENT_BASE_URL"):
    del os.environ[name]
seen = [request.headers["authorization"] for request in server.requests]
await client.close()
"""
FOREIGN = """
server.push(reply_json({**completion("Hi"), "citations": ["a"]}))
"""
FAILS = """
try:
    {}
    seen = "nothing"
except Exception as error:
    seen = type(error).__name__
"""

ROWS = {
    **CALLS,
    "an agent": Row(
        """
completion = await client.agents.chat.completions.create(
    model="", messages=messages, extra_body={"include_retrieval_info": True}
)
request = server.requests[-1]
seen = completion.choices[0].message.content, request.query, request.headers["authorization"]
""",
        ("One, two, three.", {"agent": "true"}, "Bearer agent-key"),
    ),
    "the environment": Row(
        "from gradient_async import AsyncGradient" + ENVIRONMENT,
        ["Bearer one", "Bearer two"],
        before="from gradient import AsyncGradient" + ENVIRONMENT,
    ),
    # Changes
    "the import": Row(
        """
from gradient_async import AsyncGradient
seen = AsyncGradient.__name__
""",
        "AsyncGradient",
        before="""
from gradient import AsyncGradient
seen = AsyncGradient.__name__
""",
        sync=False,
    ),
    "the import, without asyncio": Row(
        """
from gradient_async import Gradient
seen = Gradient.__name__
""",
        "Gradient",
        before="""
from gradient import Gradient
seen = Gradient.__name__
""",
    ),
    "types of replies": Row(
        """
from gradient_async import ChatCompletion
seen = isinstance(await client.chat.completions.create(**ask), ChatCompletion)
""",
        True,
        before="""
from gradient.types.chat import CompletionCreateResponse
seen = isinstance(await client.chat.completions.create(**ask), CompletionCreateResponse)
""",
    ),
    "types of chunks": Row(
        """
from gradient_async import ChatCompletionChunk
async with await client.chat.completions.create(**ask, stream=True) as stream:
    seen = [isinstance(chunk, ChatCompletionChunk) async for chunk in stream][0]
""",
        True,
        before="""
from gradient.types.shared import ChatCompletionChunk
async with await client.chat.completions.create(**ask, stream=True) as stream:
    seen = [isinstance(chunk, ChatCompletionChunk) async for chunk in stream][0]
""",
    ),
    "headers, without asyncio": Row(
        """
completion = client.chat.completions.create(**ask)
seen = completion.headers["x-request-id"], completion.request_id
""",
        ("req-000001", "req-000001"),
        before="""
response = client.chat.completions.with_raw_response.create(**ask)
completion = response.parse()
seen = response.headers["x-request-id"], response.headers["x-request-id"]
""",
        asyncio=False,
    ),
    "a client of HTTP": Row(
        """
session = aiohttp.ClientSession(headers={"X-Mine": "1"})
client = gradient_async.AsyncGradient(session=session, base_url=server.url + "/v1", api_key="key")
await client.chat.completions.create(**ask)
seen = server.requests[-1].headers["x-mine"]
await client.close()
await session.close()
""",
        "1",
        before="""
from gradient import DefaultAsyncHttpxClient

client = make(http_client=DefaultAsyncHttpxClient(headers={"X-Mine": "1"}))
await client.chat.completions.create(**ask)
seen = server.requests[-1].headers["x-mine"]
""",
        sync=False,
    ),
    "the list of models": Row(
        "seen = [model.id for model in (await client.models.list()).data][0], server.requests[-1].path",
        ("simulated", "/v1/models"),
        before="""
server.push(reply_json({"models": [{"id": "simulated"}]}))
seen = [model.id for model in (await client.models.list()).models][0], server.requests[-1].path
""",
        seen_before=("simulated", "/v1/v2/gen-ai/models"),
    ),
    "fields without a name": Row(
        FOREIGN
        + """
done = await client.chat.completions.create(**ask)
seen = done.body["citations"]
client = make(keep_body=True)
stream = await client.chat.completions.create(**ask, stream=True)
assert [chunk.body async for chunk in stream][0]['object'] == 'chat.completion.chunk'
""",
        ["a"],
        before=FOREIGN
        + """
done = await client.chat.completions.create(**ask)
seen = done.citations
assert seen == done.model_extra["citations"]
""",
    ),
    "whether the server sent a field": Row(
        """
server.push(reply_json(completion("Hi")))
done = await client.chat.completions.create(**ask)
seen = "usage" in done.body, "service_tier" in done.body
""",
        (True, False),
        before="""
server.push(reply_json(completion("Hi")))
done = await client.chat.completions.create(**ask)
seen = "usage" in done.model_fields_set, "service_tier" in done.model_fields_set
""",
    ),
    "null in plain data": Row(
        """
server.push(reply_json(completion("Hi")))
done = await client.chat.completions.create(**ask)
short, long = done.to_dict(), done.to_dict(exclude_unset=False)
seen = "logprobs" in short["choices"][0], "logprobs" in long["choices"][0]
""",
        (False, True),
        seen_before=(True, True),
    ),
    "`choices: null` and `delta: null`": Row(
        """
null = chunk(choices=[{"index": 0, "delta": None}])
server.push(reply_sse(chunk(choices=None), null, chunk("Hi", finish_reason="stop")))
stream = await client.chat.completions.create(**ask, stream=True)
chunks = [chunk async for chunk in stream]
seen = chunks[0].choices, chunks[1].choices[0].delta is None
""",
        ([], False),
        seen_before=(None, True),
    ),
    "a reply for a test": Row(
        """
reply = gradient_async.ChatCompletion.model_validate({"choices": [{"message": {"content": "Rain."}}]})
seen = reply.choices[0].message.content
""",
        "Rain.",
        before="""
from gradient.types.chat import CompletionCreateResponse
message = {"role": "assistant", "content": "Rain.", "refusal": None}
choice = {"index": 0, "finish_reason": "stop", "message": message}
whole = {"id": "x", "created": 0, "model": "m", "object": "chat.completion", "choices": [choice]}
reply = CompletionCreateResponse.model_validate(whole)
seen = reply.choices[0].message.content
""",
    ),
    "strict types of replies": Row(
        "seen = make(strict=True).strict",
        True,
        before="seen = make(_strict_response_validation=True)._strict_response_validation",
    ),
    "a missing key": Row(
        "client = bare(base_url=server.url)" + FAILS.format("await client.chat.completions.create(**ask)"),
        "ConfigurationError",
        before="client = bare(base_url=server.url)"
        + FAILS.format("await client.chat.completions.create(**ask)"),
        seen_before="TypeError",
    ),
    "a personal access token for inference": Row(
        'client = bare(access_token="token", base_url=server.url + "/v1")'
        + FAILS.format("await client.chat.completions.create(**ask)")
        + 'seen = seen, [request.headers["authorization"] for request in server.requests]',
        ("nothing", ["Bearer token"]),
        seen_before=("TypeError", []),
    ),
    "a key that is set later": Row(
        """
client = make(access_token="token")
client.access_token = "other"
await client.chat.completions.create(**ask)
seen = server.requests[-1].headers["authorization"]
""",
        "Bearer other",
        seen_before="Bearer model-key",
    ),
    "an agent endpoint with `http://`": Row(
        """
client = bare(agent_access_key="k", agent_endpoint="http://127.0.0.1:8080")
seen = client.agent_endpoint
""",
        "http://127.0.0.1:8080",
        seen_before="https://http://127.0.0.1:8080",
    ),
    "an endpoint with `GRADIENT_BASE_URL` set": Row(
        """
os.environ["GRADIENT_BASE_URL"] = "http://127.0.0.1:9/v1"
client = bare(model_access_key="k", inference_endpoint=server.url, max_retries=0)
del os.environ["GRADIENT_BASE_URL"]
"""
        + FAILS.format("await client.chat.completions.create(**ask)"),
        "nothing",
        seen_before="APIConnectionError",
    ),
    "a list in `extra_query`": Row(
        """
await client.chat.completions.create(**ask, extra_query={"a": ["1", "2"]})
seen = server.requests[-1].target.partition("?")[2]
""",
        "a=1&a=2",
        seen_before="a=1%2C2",
    ),
    "an object in `extra_query`": Row(
        FAILS.format('await client.chat.completions.create(**ask, extra_query={"a": {"b": "1"}})'),
        "TypeError",
        seen_before="nothing",
    ),
    "`error.message`": Row(
        """
client = make(max_retries=0)
server.push(reply_json({"id": "not_found", "message": "no such model"}, 404))
try:
    await client.chat.completions.create(**ask)
except package.NotFoundError as error:
    seen = error.message.split(': ', 1)[1][:13], error.body
""",
        ("no such model", {"id": "not_found", "message": "no such model"}),
        before="""
client = make(max_retries=0)
server.push(reply_json({"id": "not_found", "message": "no such model"}, 404))
try:
    await client.chat.completions.create(**ask)
except package.NotFoundError as error:
    seen = error.message
""",
        seen_before="Error code: 404 - {'id': 'not_found', 'message': 'no such model'}",
    ),
    "`error.request.url`": Row(
        """
try:
    await client.chat.completions.create(model='error-404', messages=messages)
except package.NotFoundError as error:
    kind = type(error.request.url)
    seen = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
""",
        "builtins.str",
        seen_before="httpx.URL",
    ),
    "`error.__cause__` of a lost connection": Row(
        """
client = make(base_url="http://127.0.0.1:9/v1", max_retries=0)
try:
    await client.chat.completions.create(**ask)
except package.APIConnectionError as error:
    seen = isinstance(error.__cause__, OSError)
""",
        True,
        before="""
client = make(base_url="http://127.0.0.1:9/v1", max_retries=0)
try:
    await client.chat.completions.create(**ask)
except package.APIConnectionError as error:
    seen = type(error.__cause__).__module__
""",
        seen_before="httpx",
    ),
    "a client in `pickle` and `deepcopy`": Row(
        "import copy, pickle" + FAILS.format("pickle.loads(pickle.dumps(client)), copy.deepcopy(client)"),
        "nothing",
        seen_before="TypeError",
    ),
    "`Retry-After` of more than a minute": Row(
        """
client = make(max_retries=1)
server.push(reply_json({'message': 'busy'}, 429, {'retry-after': '90'}))
try:
    await client.chat.completions.create(**ask)
    seen = 'no error'
except package.RateLimitError as error:
    seen = error.retry_after
""",
        90.0,
        seen_before="no error",
    ),
    # Not there
    "`client.knowledge_bases`, `client.agents.list()` and the rest of the platform": Row(
        """
seen = []
for owner, name in (client, "knowledge_bases"), (client, "gpu_droplets"), (client.agents, "list"):
    try:
        getattr(owner, name)
    except AttributeError as error:
        seen.append("pydo" in str(error))
""",
        [True] * 3,
        before="""
server.push(reply_json({"agents": []}))
listed = await client.agents.list()
seen = [client.knowledge_bases is not None, client.gpu_droplets is not None, listed.agents == []]
""",
    ),
    "`client.get(...)`, `client.post(...)`": Row(
        """
async with aiohttp.ClientSession() as session:
    async with session.get(client.base_url + "/models") as reply:
        seen = (await reply.json())["object"]
""",
        "list",
        before="""
seen = (await client.get("/models", cast_to=object))["object"]
assert (await client.post("/chat/completions", body=ask, cast_to=object))["choices"]
""",
        sync=False,
    ),
    "`DefaultAioHttpClient`": Row(
        """
client = make()
seen = True
""",
        True,
        before="""
from gradient import DefaultAioHttpClient
client = make()
seen = True
""",
        sync=False,
    ),
}
