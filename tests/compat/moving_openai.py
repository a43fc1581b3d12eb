"""The programs behind the tables of docs/moving.md for `openai`."""

from __future__ import annotations

from moving import Row
from moving_gradient import CALLS

__all__ = ["ROWS"]

TOOLS = """
tools = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}}}}}]
asked = [{"role": "user", "content": "What is the weather in Paris and Rome?"}]
"""
EVENTS = """
seen = []
async with client.chat.completions.stream(**ask) as stream:
    async for event in {}:
        if event.type == "content.delta":
            seen.append(event.delta)
        elif event.type == "content.done":
            seen.append(event.content)
async with client.chat.completions.stream(model="m", messages=asked, tools=tools) as stream:
    async for event in {}:
        if event.type == "tool_calls.function.arguments.done":
            seen.append((event.index, event.name, event.arguments))
"""
STATE = """
state = ChatCompletionStreamState()
stream = await client.chat.completions.create(**ask, stream=True)
seen = []
async for chunk in stream:
    seen += [event.delta for event in state.handle_chunk(chunk) if event.type == "content.delta"]
"""
RAW = """
response = await client.chat.completions.with_raw_response.create(**ask)
"""

ROWS = {
    **CALLS,
    "a stream with `async with`": Row(
        """
async with client.chat.completions.stream(**ask) as stream:
    completion = await stream.get_final_completion()
    seen = completion.choices[0].message.content, stream.current_completion_snapshot.choices[0].finish_reason
""",
        ("One, two, three.", "stop"),
    ),
    "the list of models": Row(
        """
ids = [model.id async for model in client.models.list()]
seen = ids[0], (await client.models.list()).data[0].id
""",
        ("simulated", "simulated"),
    ),
    "ids of requests": Row(
        """
client = make(max_retries=0)
completion = await client.chat.completions.create(**ask)
try:
    await client.chat.completions.create(model="error-404", messages=messages)
except package.APIStatusError as error:
    seen = completion._request_id, error.request_id
""",
        ("req-000001", "req-000002"),
    ),
    "events kept by hand": Row(
        "from gradient_async import ChatCompletionStreamState\n" + STATE,
        ["One", ",", " two", ",", " three", "."],
        before="from openai.lib.streaming.chat import ChatCompletionStreamState\n" + STATE,
        seen_before=["", "One", ",", " two", ",", " three", "."],
    ),
    # Changes
    "the import": Row(
        """
from gradient_async import AsyncGradient as AsyncOpenAI
seen = AsyncOpenAI.__name__
""",
        "AsyncGradient",
        before="""
from openai import AsyncOpenAI
seen = AsyncOpenAI.__name__
""",
        seen_before="AsyncOpenAI",
        sync=False,
    ),
    "the import, without asyncio": Row(
        """
from gradient_async import Gradient as OpenAI
seen = OpenAI.__name__
""",
        "Gradient",
        before="""
from openai import OpenAI
seen = OpenAI.__name__
""",
        seen_before="OpenAI",
    ),
    "key and address": Row(
        """
from gradient_async import AsyncGradient as AsyncOpenAI

os.environ.update(OPENAI_API_KEY="key", OPENAI_BASE_URL=server.url + "/v1")
client = AsyncOpenAI(api_key=os.environ["OPENAI_API_KEY"], base_url=os.environ["OPENAI_BASE_URL"])
del os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"]
await client.chat.completions.create(**ask)
await client.close()
seen = server.requests[-1].path, server.requests[-1].headers["authorization"]
""",
        ("/v1/chat/completions", "Bearer key"),
        before="""
from openai import AsyncOpenAI

os.environ.update(OPENAI_API_KEY="key", OPENAI_BASE_URL=server.url + "/v1")
client = AsyncOpenAI()
del os.environ["OPENAI_API_KEY"], os.environ["OPENAI_BASE_URL"]
await client.chat.completions.create(**ask)
await client.close()
seen = server.requests[-1].path, server.requests[-1].headers["authorization"]
""",
    ),
    "a key that changes": Row(
        """
client.api_key = 'new'
await client.chat.completions.create(**ask)
seen = server.requests[-1].headers['authorization']
""",
        "Bearer new",
        before="""
async def new_key():
    return 'new'

client = make(api_key=new_key)
await client.chat.completions.create(**ask)
seen = server.requests[-1].headers['authorization']
""",
        sync=False,
    ),
    "types of replies": Row(
        """
from gradient_async import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
seen = isinstance(await client.chat.completions.create(**ask), ChatCompletion)
""",
        True,
        before="""
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
seen = isinstance(await client.chat.completions.create(**ask), ChatCompletion)
""",
    ),
    "types of parameters": Row(
        """
from gradient_async import ChatCompletionMessage
from gradient_async.types import MessageParam, ToolParam
messages: list[MessageParam | ChatCompletionMessage] = messages
seen = len(messages)
""",
        1,
        before="""
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
messages: list[ChatCompletionMessageParam] = messages
seen = len(messages)
""",
    ),
    "the events of a stream": Row(
        TOOLS + EVENTS.format("stream.events()", "stream.events()"),
        [
            *["One", ",", " two", ",", " three", ".", "One, two, three."],
            (0, "weather", '{"place":"Paris"}'),
            (1, "weather", '{"place":"Rome"}'),
        ],
        before=TOOLS + EVENTS.format("stream", "stream"),
        seen_before=[
            *["", "One", ",", " two", ",", " three", ".", "One, two, three."],
            (0, "weather", '{"place":"Paris"}'),
            (1, "weather", '{"place":"Rome"}'),
        ],
    ),
    "`event.snapshot`": Row(
        """
async with client.chat.completions.stream(**ask) as stream:
    async for event in stream.events():
        if event.type == "content.delta":
            seen = event.snapshot, "snapshot" in event.model_dump()
""",
        ("One, two, three.", False),
        before="""
async with client.chat.completions.stream(**ask) as stream:
    async for event in stream:
        if event.type == "content.delta":
            seen = event.snapshot, "snapshot" in event.model_dump()
""",
        seen_before=("One, two, three.", True),
    ),
    "`OpenAIError`": Row(
        """
from gradient_async import GradientError
seen = issubclass(package.APIError, GradientError)
""",
        True,
        before="""
from openai import OpenAIError
seen = issubclass(package.APIError, OpenAIError)
""",
    ),
    "a raw response": Row(
        RAW
        + """
completion = await response.parse()
seen = completion.choices[0].message.content
""",
        "One, two, three.",
        before=RAW
        + """
completion = response.parse()
seen = completion.choices[0].message.content
""",
        sync=False,
    ),
    "headers, without asyncio": Row(
        """
completion = client.chat.completions.create(**ask)
seen = completion.headers['content-type'], completion.request_id
""",
        ("application/json", "req-000001"),
        before=RAW.replace("await ", "")
        + """
completion = response.parse()
seen = response.headers['content-type'], response.request_id
""",
        asyncio=False,
    ),
    "`client.beta`": Row(
        """
async with client.chat.completions.stream(**ask) as stream:
    seen = (await stream.get_final_completion()).choices[0].message.content
""",
        "One, two, three.",
        before="""
async with client.beta.chat.completions.stream(**ask) as stream:
    seen = (await stream.get_final_completion()).choices[0].message.content
""",
    ),
    "organization and project": Row(
        """
client = make(default_headers={"OpenAI-Organization": "o", "OpenAI-Project": "p"})
await client.chat.completions.create(**ask)
headers = server.requests[-1].headers
seen = headers["openai-organization"], headers["openai-project"]
""",
        ("o", "p"),
        before="""
client = make(organization="o", project="p")
await client.chat.completions.create(**ask)
headers = server.requests[-1].headers
seen = headers["openai-organization"], headers["openai-project"]
""",
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
from openai import DefaultAsyncHttpxClient

client = make(http_client=DefaultAsyncHttpxClient(headers={"X-Mine": "1"}))
await client.chat.completions.create(**ask)
seen = server.requests[-1].headers["x-mine"]
""",
        sync=False,
    ),
    "`pydantic_function_tool(Model)`": Row(
        TOOLS
        + """
import pydantic
Model = pydantic.create_model('weather', place=(str, ...))
tools = [{"type": "function", "function": {"name": "weather", "parameters": Model.model_json_schema()}}]
done = await client.chat.completions.create(model='m', messages=asked, tools=tools)
seen = len(done.choices[0].message.tool_calls)
""",
        2,
        before=TOOLS
        + """
import pydantic
from openai import pydantic_function_tool
Model = pydantic.create_model('weather', place=(str, ...))
tools = [pydantic_function_tool(Model)]
done = await client.chat.completions.create(model='m', messages=asked, tools=tools)
seen = len(done.choices[0].message.tool_calls)
""",
    ),
    "fields without a name": Row(
        """
server.push(reply_json({**completion('Hi'), 'citations': ['a']}))
completion = await client.chat.completions.create(**ask)
seen = completion.body["citations"]
client = make(keep_body=True)
stream = await client.chat.completions.create(**ask, stream=True)
assert [chunk.body async for chunk in stream][0]['object'] == 'chat.completion.chunk'
""",
        ["a"],
        before="""
server.push(reply_json({**completion('Hi'), 'citations': ['a']}))
completion = await client.chat.completions.create(**ask)
seen = completion.citations
assert seen == completion.model_extra["citations"]
""",
    ),
    "a list in `extra_query`": Row(
        """
await client.chat.completions.create(**ask, extra_query={"a": ["1", "2"]})
seen = server.requests[-1].target.partition("?")[2]
""",
        "a=1&a=2",
        seen_before="a%5B%5D=1&a%5B%5D=2",
    ),
    # Not there
    "`client.responses`": Row(
        """
try:
    client.responses.create(input='Hi')
except AttributeError as error:
    seen = 'client.chat.completions.create(...)' in str(error).replace('model=..., messages=[...]', '...')
""",
        True,
        before="seen = bool(client.responses)",
    ),
    "`client.embeddings`, `client.images`, `client.audio`, `client.files` and others": Row(
        """
other = 'openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key)'
seen = []
for name in 'embeddings images audio files'.split():
    try:
        getattr(client, name)
    except AttributeError as error:
        seen.append(other in str(error))
""",
        [True] * 4,
        before="""
found = client.embeddings, client.images, client.audio, client.files
seen = [each is not None for each in found]
""",
    ),
    "stored completions: `retrieve`, `list`, `update`, `delete`": Row(
        """
names = "retrieve", "list", "update", "delete"
seen = [hasattr(client.chat.completions, name) for name in names]
""",
        [False] * 4,
        seen_before=[True] * 4,
    ),
    "`openai.api_key`, `openai.chat`": Row(
        """
from gradient_async import AsyncGradient as AsyncOpenAI

client = AsyncOpenAI(api_key="key", base_url=server.url + "/v1")
completion = await client.chat.completions.create(**ask)
await client.close()
seen = completion.choices[0].message.content
""",
        "One, two, three.",
        before="""
import openai

openai.api_key, openai.base_url = "key", server.url + "/v1/"
seen = openai.chat.completions.create(**ask).choices[0].message.content
openai.api_key = openai.base_url = None
openai._reset_client()
""",
    ),
}
