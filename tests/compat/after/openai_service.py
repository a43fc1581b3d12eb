"""A service that streams answers to browsers as events, with FastAPI."""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

import gradient_async
from gradient_async import AsyncGradient as AsyncOpenAI
from gradient_async import AsyncStream, ChatCompletionChunk


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.client = AsyncOpenAI(
        api_key=os.environ["OPENAI_API_KEY"],
        base_url=os.environ["OPENAI_BASE_URL"],
        max_retries=0,
        timeout=20,
    )
    yield
    await app.state.client.close()


app = FastAPI(lifespan=lifespan)


async def events(stream: AsyncStream[ChatCompletionChunk]) -> AsyncIterator[str]:
    """One event for each piece of text, and one at the end."""
    try:
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield f"data: {json.dumps({'text': chunk.choices[0].delta.content})}\n\n"
        yield "event: end\ndata: {}\n\n"
    except gradient_async.APIError as error:
        yield f"event: error\ndata: {json.dumps({'message': error.message})}\n\n"
    finally:
        await stream.close()


@app.post("/chat")
async def chat(request: Request) -> StreamingResponse:
    body = await request.json()
    client: AsyncOpenAI = request.app.state.client
    try:
        stream = await client.chat.completions.create(
            model=body.get("model", "gpt-5.5"), messages=body["messages"], stream=True
        )
    except gradient_async.RateLimitError as error:
        raise HTTPException(
            429, "busy", headers={"Retry-After": error.response.headers["retry-after"]}
        ) from error
    except gradient_async.APIStatusError as error:
        raise HTTPException(502, error.message) from error
    except gradient_async.APIConnectionError as error:
        raise HTTPException(503, "not reached") from error
    return StreamingResponse(events(stream), media_type="text/event-stream")


@app.get("/healthz")
async def healthz(request: Request) -> dict[str, list[str]]:
    return {"models": [model.id async for model in request.app.state.client.models.list()]}
