"""Recorded streams, bodies and errors through the whole client, over real HTTP."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from client_calls import CALL, Start, create_completion, open_stream

from gradient_async import APIStatusError, AsyncGradient, ChatCompletion, StreamError
from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder, decode_completion, parse_error
from gradient_async.errors import status_error_class
from gradient_async.testing import reply_bytes, serve

CORPUS = Path(os.environ.get("GRADIENT_ASYNC_CORPUS", Path(__file__).parents[2] / ".." / "shared" / "corpus"))
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="the recordings are not here")


def by_the_core(data: bytes) -> tuple[ChatCompletion, str | None]:
    """What the core makes of a recording, and the class of the error it ends with, if it does."""
    decoder, assembler = ChunkDecoder(), CompletionAssembler()
    try:
        assembler.extend(decoder.feed(data))
        assembler.extend(decoder.close())
    except StreamError as error:
        return assembler.completion, type(error).__name__
    assembler.end(done=decoder.done)
    return assembler.completion, None if assembler.complete else "StreamTruncatedError"


def plain(completion: ChatCompletion | None) -> dict[str, Any]:
    assert completion is not None
    return completion.to_dict()


async def test_streams_give_what_the_core_gives() -> None:
    """Played by the local server in the sizes they were read in, where that was recorded."""
    names = sorted(file.stem for file in (CORPUS / "streams").glob("*.sse"))
    assert names
    async with (
        serve(replay=CORPUS / "streams") as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="k") as client,
    ):
        for name in names:
            expected, ending = by_the_core((CORPUS / "streams" / f"{name}.sse").read_bytes())
            stream = await open_stream(client, model=name)
            ended: str | None = None
            completion: ChatCompletion | None
            try:
                completion = await stream.completion()
            except StreamError as error:
                completion, ended = error.partial, type(error).__name__
            assert (ending, plain(expected)) == (ended, plain(completion)), name
        assert len(server.requests) == len(names)


async def test_bodies_are_completions(start: Start) -> None:
    files = sorted((CORPUS / "bodies").glob("*.json"))
    assert files
    server, client = await start()
    for file in files:
        server.push(reply_bytes(file.read_bytes(), content_type="application/json"))
        got = await create_completion(client)
        assert plain(decode_completion(file.read_bytes())) == plain(got), file.name
        assert got.choices or got.id or got.usage, file.name


async def test_bodies_are_understood_in_place_of_streams(start: Start) -> None:
    server, client = await start()
    for file in sorted((CORPUS / "bodies").glob("*.json")):
        server.push(reply_bytes(file.read_bytes(), content_type="application/json"))
        async with client.chat.completions.stream(**CALL) as stream:
            got = await stream.completion()
        assert stream.was_buffered
        for expected, choice in zip(decode_completion(file.read_bytes()).choices, got.choices, strict=True):
            assert expected.message.content == choice.message.content, file.name
            assert plain_calls(expected) == plain_calls(choice), file.name


def plain_calls(choice: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]


async def test_errors_are_of_their_class_and_say_what_the_server_said(start: Start) -> None:
    files = sorted((CORPUS / "errors").glob("*.json"))
    assert files
    server, client = await start()
    for file in files:
        recorded = json.loads(file.read_text("utf-8"))
        body = (recorded.get("body_text") or "").encode()
        kept = {"content-type", "retry-after", "retry-after-ms", "x-request-id"}
        headers = {name: value for name, value in recorded["headers"].items() if name.lower() in kept}
        server.push(reply_bytes(body, recorded["status"], headers))
        with pytest.raises(APIStatusError) as caught:
            await create_completion(client)
        error, reported = caught.value, parse_error(body)
        assert (error.status_code, error.code, error.type) == (
            recorded["status"],
            reported.code,
            reported.type,
        ), file.name
        if recorded["status"] >= 400:
            assert type(error) is status_error_class(recorded["status"], reported.code or reported.type), (
                file.name
            )
        assert reported.message in str(error), file.name
