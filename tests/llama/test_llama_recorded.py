"""Recordings of llama.cpp's server, played back byte for byte."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradient_async import AsyncGradient, AuthenticationError
from gradient_async.testing import serve

KEY = "sk-do-v1-0123456789abcdefghij"
MODEL = "tiny-chat"
LlamaServer = Callable[..., str]
CALL: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Count to ten"}],
    "temperature": 0,
    "stream_options": {"include_usage": True},
}
needs_openai = pytest.mark.skipif(
    importlib.util.find_spec("openai") is None, reason="openai is not installed"
)


async def raw(url: str, key: str = KEY) -> tuple[bytes, list[int]]:
    """Read a stream as bytes; return these, and the sizes of the reads."""
    async with AsyncGradient(inference_endpoint=url, model_access_key=key, timeout=60) as client:
        stream = await client.chat.completions.create(stream=True, **CALL)
        async with stream:
            pieces = [bytes(piece) async for piece in stream.raw]
    return b"".join(pieces), list(map(len, pieces))


@pytest.fixture
async def recorded(llama: LlamaServer, tmp_path: Path) -> tuple[Path, bytes]:
    """A folder with a stream of the model's, and the bytes that the client got of it."""
    async with serve(upstream=llama(key=KEY), record=tmp_path) as server:
        data, _ = await raw(server.url)
        with pytest.raises(AuthenticationError):
            await raw(server.url, "sk-another-0123456789abc")
    return tmp_path, data


async def test_byte_for_byte(recorded: tuple[Path, bytes]) -> None:
    """A stream of a real server is replayed as it came, and no key is in a file."""
    folder, data = recorded
    streamed, refused = (
        json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()
    )
    assert (200, "eof", True) == (
        streamed["response"]["status"],
        streamed["end"],
        streamed["response"]["chunked"],
    )
    assert (401, "eof") == (refused["response"]["status"], refused["end"])
    assert data == (folder / streamed["file"]).read_bytes()
    assert data.endswith(b"data: [DONE]\n\n")
    for path in folder.iterdir():
        assert "0123456789ab" not in path.read_text("utf-8").replace(streamed["request"]["digest"], "")
    async with serve(replay=folder) as server:
        replayed, sizes = await raw(server.url)
    assert data == replayed
    assert sum(streamed["recorded_read_sizes"]) == sum(sizes)
    async with serve(replay=folder, speed=None) as server:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="any")
        stream = await client.chat.completions.create(stream=True, **CALL)
        completion = await stream.completion()
        await client.close()
    assert (MODEL, "stop") == (completion.model, completion.choices[0].finish_reason)


@needs_openai
@pytest.mark.filterwarnings("default")
async def test_openai(recorded: tuple[Path, bytes]) -> None:
    """`openai`'s client reads the same bytes from the recording."""
    folder, data = recorded
    openai: Any = importlib.import_module("openai")
    async with serve(replay=folder, speed=None) as server:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any")
        reply = client.chat.completions.with_streaming_response.create(stream=True, **CALL)
        async with reply as opened:
            assert data == b"".join([piece async for piece in opened.iter_bytes()])
        await client.close()
