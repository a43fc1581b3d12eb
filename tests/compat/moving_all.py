"""The programs behind the table of docs/moving.md on what behaves differently."""

from __future__ import annotations

from moving import Row

__all__ = ["ROWS"]

READ = """
client = make(max_retries=0)
text = ""
stream = await client.chat.completions.create(**ask, stream=True)
try:
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
    seen = text, "no error"
except Exception as error:
    seen = text, type(error).__name__
"""
CALL = """
try:
    await client.chat.completions.create(**ask)
    seen = "no error"
except Exception as error:
    seen = type(error).__name__
"""
BROKEN = """
begin = head(200, {'content-type': 'text/event-stream', 'transfer-encoding': 'chunked'})
server.push(reply_writes([begin, http_chunk(sse(chunk('Half'), done=False)), 0.05, RESET]))
"""
# What the peers raise is an exception of their HTTP library, or their own, depending on their version.
OTHER_KIND = """
seen = seen[0], seen[1] != "no error"
"""

ROWS = {
    "a stream that ends before its answer does": Row(
        """
server.push(reply_sse(chunk('Half'), done=False))
"""
        + READ,
        ("Half", "StreamTruncatedError"),
        seen_before=("Half", "no error"),
    ),
    "what was received before an error": Row(
        BROKEN + READ.replace("type(error).__name__", "error.partial.choices[0].message.content"),
        ("Half", "Half"),
        before=BROKEN + READ.replace("type(error).__name__", "hasattr(error, 'partial')"),
        seen_before=("Half", False),
    ),
    "a connection lost in the middle of a stream": Row(
        BROKEN
        + READ.replace(
            "type(error).__name__", "type(error).__name__, isinstance(error, package.APIConnectionError)"
        ),
        ("Half", "StreamInterruptedError", True),
        before=BROKEN + READ + OTHER_KIND,
        seen_before=("Half", True),
    ),
    'an error inside a stream, as `{"message": ...}`': Row(
        """
server.push(reply_sse(chunk('Half'), '{"id": "server_error", "message": "overloaded"}'))
"""
        + READ.replace("type(error).__name__", "type(error).__name__, isinstance(error, package.APIError)"),
        ("Half", "StreamServerError", True),
        before="""
server.push(reply_sse(chunk('Half'), '{"id": "server_error", "message": "overloaded"}'))
"""
        + READ
        + OTHER_KIND,
        seen_before=("Half", True),
    ),
    "a server that sends keep-alives only": Row(
        """
begin = head(200, {'content-type': 'text/event-stream', 'transfer-encoding': 'chunked'})
end = [http_chunk(sse(chunk('late', finish_reason='stop'))), http_chunk(b'')]
server.push(reply_writes([begin, *[http_chunk(b': ping\\n\\n'), 0.05] * 10, *end]))
"""
        + READ.replace("max_retries=0", "max_retries=0, timeout=0.2"),
        ("", "StreamTimeoutError"),
        seen_before=("late", "no error"),
    ),
    "redirects": Row(
        """
server.push(reply_json({}, 307, {'location': server.url + '/v1/chat/completions'}))
"""
        + CALL,
        "UnexpectedRedirectError",
        seen_before="no error",
    ),
    "proxies in the environment": Row(
        """
os.environ['HTTP_PROXY'] = server.url
client = make(max_retries=0, base_url='http://127.0.0.1:9/v1')
"""
        + CALL
        + """
proxied = len(server.requests)
client = make(max_retries=0, base_url='http://127.0.0.1:9/v1', trust_env=True)
"""
        + CALL
        + """
del os.environ['HTTP_PROXY']
seen = proxied, len(server.requests)
""",
        (0, 1),
        before="""
os.environ['HTTP_PROXY'] = server.url
client = make(max_retries=0, base_url='http://127.0.0.1:9/v1')
"""
        + CALL
        + """
del os.environ['HTTP_PROXY']
seen = len(server.requests)
""",
        seen_before=1,
    ),
    "retries where the server may have worked: after 409, 504 and lost replies": Row(
        """
client = make(max_retries=1)
seen = []
for reply in ('error-409', 'error-504', 'lost'):
    if reply == 'lost':
        client = make(max_retries=1)  # with no connection yet
        server.push(reply_writes([CLOSE]))
    before = len(server.requests)
    try:
        await client.chat.completions.create(model=reply, messages=messages)
    except package.APIError:
        pass
    seen.append(len(server.requests) - before)
""",
        [1, 1, 1],
        seen_before=[2, 2, 2],
    ),
    "a value out of its range": Row(
        """
client = make(validate=False)
server.push(reply_json(completion('Hi')))
await client.chat.completions.create(**ask, temperature=9)
client = make()
"""
        + CALL.replace("**ask", "**ask, temperature=9"),
        "InvalidRequestError",
        before="""
server.push(reply_json(completion('Hi')))
"""
        + CALL.replace("**ask", "**ask, temperature=9"),
        seen_before="no error",
    ),
    "a misspelt name": Row(
        """
try:
    await client.chat.completions.create(**ask, temprature=1)
except TypeError as error:
    seen = "Did you mean 'temperature'?" in str(error)
""",
        True,
        before=CALL.replace("**ask", "**ask, temprature=1"),
        seen_before="TypeError",
    ),
    "`with` in place of `async with`": Row(
        """
try:
    with client:
        pass
except TypeError as error:
    seen = "write 'async with'" in str(error)
""",
        True,
        before="""
try:
    with client:
        pass
except TypeError as error:
    seen = "write 'async with'" in str(error)
""",
        seen_before=False,
        sync=False,
    ),
    "pydantic": Row(
        """
done = await client.chat.completions.create(**ask)
seen = [base.__name__ for base in type(done).__mro__ if base.__name__ in ('Struct', 'BaseModel')][-1]
assert isinstance(done.to_dict(), dict)
try:
    type(done).model_validate({})
except ValueError:
    pass
""",
        "Struct",
        before="""
done = await client.chat.completions.create(**ask)
seen = [base.__name__ for base in type(done).__mro__ if base.__name__ in ('Struct', 'BaseModel')][-1]
""",
        seen_before="BaseModel",
    ),
}
