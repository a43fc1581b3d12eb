"""Recordings play back to `AsyncGradient` and to ``openai``'s client alike: the same bytes, the same end, the same pauses."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from gradient_async import AsyncGradient
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Handler,
    chunk,
    completion,
    head,
    http_chunk,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
    sse,
)

KEY = "sk-do-v1-0123456789abcdefghij"
CALL: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": f"Hi, I am {KEY}"}]}
BOTH = pytest.mark.parametrize(
    "package",
    [
        "gradient_async",
        pytest.param(
            "openai",
            marks=[
                pytest.mark.skipif(
                    importlib.util.find_spec("openai") is None, reason="openai is not installed"
                ),
                pytest.mark.filterwarnings("default"),
            ],
        ),
    ],
)
BEGIN = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
PIECES = [http_chunk(sse(chunk(text), done=False)) for text in ("Hal", f"f {KEY[:9]}", f"{KEY[9:]} of ")]
PAUSE = 0.1
FAULTY: dict[str, Handler] = {
    "whole": reply_sse(chunk("Hello"), chunk(finish_reason="stop"), gap=PAUSE),
    "cut": reply_writes([BEGIN, *PIECES[:1], PAUSE, *PIECES[1:], PAUSE, CLOSE]),
    "reset": reply_writes([BEGIN, *PIECES[:1], PAUSE, *PIECES[1:], PAUSE, RESET]),
    "short": reply_writes([BEGIN, *PIECES, PAUSE, http_chunk(b"")]),
    "stall": reply_writes([BEGIN, *PIECES[:1], PAUSE, *PIECES[1:], HOLD]),
}


def client(package: str, url: str, timeout: float = 30.0) -> Any:
    if package == "openai":
        openai = importlib.import_module("openai")
        return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=timeout)
    return AsyncGradient(inference_endpoint=url, model_access_key=KEY, max_retries=0, timeout=timeout)


def written(folder: Path) -> bytes:
    """Return all files together."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def bytes_of(package: str, url: str, *, patience: float) -> tuple[bytes, str, float]:
    """Read a stream as bytes; return these, the name of the error that ended them, and how long it took."""
    began = monotonic()
    data, error = b"", ""
    async with client(package, url) as made:
        try:
            async with asyncio.timeout(patience):
                if package == "openai":
                    api = made.chat.completions.with_streaming_response
                    async with api.create(stream=True, **CALL) as reply:
                        async for piece in reply.iter_bytes():
                            data += piece
                else:
                    stream = await made.chat.completions.create(stream=True, **CALL)
                    async with stream:
                        async for piece in stream.raw:
                            data += piece
        except Exception as raised:  # noqa: BLE001  # each package has its own
            error = type(raised).__name__
    return data, error, monotonic() - began


@BOTH
@pytest.mark.parametrize("name", FAULTY)
async def test_faulty_server(tmp_path: Path, name: str, package: str) -> None:
    """A recorded cut, reset or stall is replayed byte for byte with its timing, and no key is in a file."""
    patience = 0.5 if name == "stall" else 30.0
    async with serve(FAULTY[name]) as real, serve(upstream=real.url, record=tmp_path) as server:
        recorded = await bytes_of(package, server.url, patience=patience)
    (line,) = (json.loads(text) for text in (tmp_path / "manifest.jsonl").read_text("utf-8").splitlines())
    file = (tmp_path / line["file"]).read_bytes()
    ends = {"whole": "eof", "short": "eof", "stall": "client"}
    assert (ends.get(name, name), sum(line["recorded_read_sizes"])) == (line["end"], len(file))
    assert KEY.encode() not in written(tmp_path)
    async with serve(replay=tmp_path, strict=True) as server:
        data, error, seconds = await bytes_of(package, server.url, patience=patience)
    assert (file, recorded[1]) == (data, error)
    assert seconds > 0.9 * PAUSE * (1 if name in {"stall", "short"} else 2)
    assert recorded[0].count(b"data:") == data.count(b"data:")


@BOTH
async def test_awaited(tmp_path: Path, package: str) -> None:
    """Awaited replies and refusals too."""
    replies = [
        reply_json(completion("Hello")),
        reply_json({"error": {"message": f"bad key {KEY}", "code": "x"}}, 401),
    ]
    seen: list[list[str]] = []
    async with serve(*replies) as real:
        for options in ({"upstream": real.url, "record": tmp_path}, {"replay": tmp_path, "strict": True}):
            async with serve(**options) as server, client(package, server.url) as made:  # type: ignore[arg-type]  # as named
                first = await made.chat.completions.create(**CALL)
                with pytest.raises(Exception, match="401") as caught:
                    await made.chat.completions.create(**CALL)
            seen.append([first.choices[0].message.content, type(caught.value).__name__])
    assert [["Hello", "AuthenticationError"]] * 2 == seen
    assert KEY.encode() not in written(tmp_path)


@BOTH
async def test_recorded_by_another_client(tmp_path: Path, package: str) -> None:
    """What one client has recorded plays to the other, which writes its JSON in another way."""
    async with serve(FAULTY["whole"]) as real, serve(upstream=real.url, record=tmp_path) as server:
        await bytes_of(package, server.url, patience=30)
    async with serve(replay=tmp_path, strict=True, speed=None) as server:
        made = AsyncGradient(inference_endpoint=server.url, model_access_key="any")
        stream = await made.chat.completions.create(stream=True, **CALL)
        assert "Hello" == (await stream.completion()).choices[0].message.content
        await made.close()
