"""Tables and sentences of the documentation that can be held against the code."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import re
from typing import get_args, get_origin, get_type_hints

import aiohttp
import pytest
from aiohttp import test_utils, web
from pages import ROOT, run_page

import gradient_async
from gradient_async import AsyncGradient, GradientError, Limits, Timeout
from gradient_async.config import DEFAULT_INFERENCE_ENDPOINT, VARIABLES
from gradient_async.events import ChatCompletionStreamEvent
from gradient_async.testing import chunk, reply_sse, serve
from gradient_async.types import AgentCompletionParams, ChatCompletionParams, RequestOptions, params

DOCS = ROOT / "docs"


def read(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def reference_pages() -> list[str]:
    """The texts of the pages of the reference."""
    return [page.read_text("utf-8") for page in sorted((DOCS / "api").glob("*.md"))]


def rows(text: str) -> list[list[str]]:
    """Cells of all rows of all tables of a page."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


def test_reference_has_every_public_name() -> None:
    """What ``gradient_async`` exports stands in the reference, by name or with the other classes of its module."""
    reference = "".join(reference_pages())
    for module in re.findall(r"^\.\. automodule:: (\S+)", reference, re.MULTILINE):
        for name, value in vars(importlib.import_module(module)).items():
            reference += f" {name}" if getattr(value, "__module__", None) == module else ""
    missing = [
        name
        for name in gradient_async.__all__
        if not re.search(rf"\b{name}\b", reference) and name not in {"NOT_GIVEN", "omit", "__version__"}
    ]
    assert [] == missing


def test_reference_names_what_there_is() -> None:
    """Every target of the reference can be imported, so that building it does not fail."""
    found = 0
    for page in reference_pages():
        module = ""
        for kind, target in re.findall(r"^\.\. (currentmodule|auto\w+):: (\S+)", page, re.MULTILINE):
            if kind in {"currentmodule", "automodule"}:
                module = target
                continue
            if module == "gradient_async.ray" and importlib.util.find_spec("ray") is None:
                continue
            home, _, name = target.rpartition(".")
            place: object = None
            if kind == "automethod":
                home, _, class_name = home.rpartition(".")
                place = getattr(importlib.import_module(home), class_name)
            assert hasattr(place or importlib.import_module(home or module), name), target
            found += 1
    assert found > 0


def test_reference_describes_every_parameter() -> None:
    """The tables are made of the classes that check and type the parameters."""
    reference = "".join(reference_pages())
    for described in (ChatCompletionParams, AgentCompletionParams, RequestOptions):
        assert f"{{parameters}} {described.__name__}" in reference
    source = (ROOT / "gradient_async" / "types" / "params.py").read_text("utf-8")
    for name in {**ChatCompletionParams.__annotations__, **AgentCompletionParams.__annotations__}:
        # A description follows the field; without one, the table would lack it.
        assert re.search(rf'^    {name}: (?:.+|\((?:\n .+)+\n    \))\n    """', source, re.MULTILINE), name


def test_parameters_stand_once_in_the_reference() -> None:
    """Classes that repeat them for type checkers are left out of the list of shapes."""
    page = read("api/parameters.md")
    left_out = re.findall(r"\w+", page[page.index(":exclude-members:") :].partition("\n")[0])
    repeated = {
        name
        for name, kind in vars(params).items()
        if not name.startswith("_") and "temperature" in getattr(kind, "__annotations__", {})
    }
    assert set() == repeated - set(left_out)


def test_configuration_names_every_option() -> None:
    """Options, their variables and their defaults are those of the constructor."""
    page = read("configuration.md")
    options = set(inspect.signature(AsyncGradient).parameters) - {"http_client"}
    reported = {cells[0].strip("`") for cells in rows(page)} | {"api_key"}
    assert set() == options - reported
    for option, names in VARIABLES.items():
        (cells,) = (cells for cells in rows(page) if cells[0] == f"`{option}`")
        assert list(names) == re.findall(r"`(\w+)`", cells[1])
    assert f"`{DEFAULT_INFERENCE_ENDPOINT}`" in page


def test_time_limits_are_those_of_timeout() -> None:
    """The table of time limits has every field with its default."""
    reported = {
        cells[0].strip("`"): cells[1] for cells in rows(read("errors.md")) if len(cells) == len("abc")
    }
    for name in Timeout.__struct_fields__:
        default = getattr(Timeout(), name)
        assert ("None" if default is None else f"{default:g}") == reported[name]


def test_size_limits_are_those_of_limits() -> None:
    """The table of size limits has every field with its default."""
    units = {"KiB": 2**10, "MiB": 2**20}
    reported: dict[str, float] = {}
    for cells in rows(read("errors.md")):
        numbers = re.findall(r"(\d[\d,.]*) (\w+)", cells[1].partition(":")[0])
        reported[cells[0].strip("`")] = sum(
            float(number.replace(",", "")) * units.get(unit, 1) for number, unit in numbers
        )
    for name in Limits.__struct_fields__:
        assert getattr(Limits(), name) == reported[name], name


def test_every_error_has_a_way_out() -> None:
    """The list names every error that can be raised, but for classes that only group others."""
    named = {
        name
        for names in re.findall(r"^- \*\*(.+?)\*\*", read("errors.md"), re.MULTILINE | re.DOTALL)
        for name in re.findall(r"`(\w+Error)`", names)
    }
    exported = {
        name
        for name in gradient_async.__all__
        if isinstance(value := getattr(gradient_async, name), type) and issubclass(value, GradientError)
    }
    groups = {"GradientError", "APIError", "APIStatusError", "OutputError", "StreamError"}
    assert exported - groups == named


def test_table_of_events_is_whole() -> None:
    """Every type of event stands in the table, and its class can be imported from the package."""
    reported = {
        name for cells in rows(read("streaming.md")) for name in re.findall(r"`([a-z_.]+)`", cells[0])
    }
    events = get_args(ChatCompletionStreamEvent)
    kinds = [get_origin(event) or event for event in events]
    assert {get_args(get_type_hints(kind)["type"])[0] for kind in kinds} <= reported
    assert {kind.__name__ for kind in kinds} <= set(gradient_async.__all__)


def test_tree_of_errors() -> None:
    """The tree is drawn as it grows: every error once, below the one it is derived from."""
    drawn = re.search(r"```text\n(GradientError\n.*?)```", read("errors.md"), re.DOTALL)
    assert drawn is not None
    path: list[str] = []
    seen: set[str] = set()
    for line in drawn[1].splitlines():
        found = re.match(r"([│├└─ ]*)(\w+)", line)
        assert found is not None
        depth = len(found[1]) // 4
        path[depth:] = [found[2]]
        seen.add(found[2])
        kind = getattr(gradient_async, found[2])
        assert issubclass(kind, GradientError)
        if depth:
            assert getattr(gradient_async, path[depth - 1]) in kind.__bases__, line
    exported = {
        name
        for name in gradient_async.__all__
        if isinstance(value := getattr(gradient_async, name), type) and issubclass(value, GradientError)
    }
    assert exported == seen


def test_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler of the guide relays a stream byte for byte, and closes it when the visitor leaves."""
    with serve(delay=0.005) as server:
        monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", server.url)
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "any")
        app: web.Application = run_page(DOCS / "streaming.md")["app"]

        async def visit() -> bytes:
            async with test_utils.TestServer(app) as front, aiohttp.ClientSession() as visitor:
                url = front.make_url("/chat")
                short = {"messages": [{"role": "user", "content": "Count to three."}]}
                async with visitor.post(url, json=short) as response:
                    relayed = await response.read()
                before = server.connections
                endless = {"messages": [{"role": "user", "content": "Write 5000 words."}]}
                async with visitor.post(url, json=endless) as response:
                    await response.content.readany()
                # The visitor has left in the middle; the handler notices with its next write.
                await asyncio.to_thread(server.wait_closed_connections, 0, timeout=5)
                assert before == server.connections
                server.push(reply_sse(chunk("One, "), done=False))
                async with visitor.post(url, json=short) as response:
                    with pytest.raises(aiohttp.ClientPayloadError):  # what was cut does not look whole
                        await response.read()
                return relayed

        relayed = asyncio.run(visit())
    assert relayed.startswith(b"data: {")
    assert relayed.endswith(b"data: [DONE]\n\n")


async def test_a_stream_can_be_read_on_after_a_time_limit() -> None:
    """Cancelling a task that waits for a chunk loses nothing."""
    messages = [{"role": "user", "content": "Count to three."}]
    pieces: list[str] = []
    cancelled = 0
    async with (
        serve(delay=0.05) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="any") as client,
        client.chat.completions.stream(model="m", messages=messages) as stream,
    ):
        text = aiter(stream.text)
        while not stream.completed:
            try:
                async with asyncio.timeout(0.02):
                    pieces.append(await anext(text))
            except TimeoutError:
                cancelled += 1
            except StopAsyncIteration:
                break
    assert cancelled > 0
    assert "One, two, three." == "".join(pieces)
