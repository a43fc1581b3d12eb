"""The page of docs/examples in a browser: what it shows of answers that are whole, stopped, cut, silent or refused."""

from __future__ import annotations

import importlib
import time
from typing import Any

import pytest
from chat_page import ChatPage, ServePage
from example_services import KEY, example
from scripted_answers import Gate, deltas, logprobs, usage, writes

from gradient_async import Timeout
from gradient_async.testing import (
    HOLD,
    RESET,
    ThreadedServer,
    chunk,
    http_chunk,
    reply_json,
    reply_sse,
    reply_writes,
    sse,
)

ENDLESS = reply_writes([*writes(deltas("One, two,", finish_reason=None)), HOLD])
WHOLE = reply_sse(*deltas("Five."), usage(2))
both_services = pytest.mark.parametrize("serve_page", ["aiohttp", "fastapi"], indirect=True)


@pytest.fixture
def keys() -> Any:
    """The names of keys."""
    return importlib.import_module("selenium.webdriver.common.keys").Keys


@both_services
def test_whole_answers(serve_page: ServePage, page: ChatPage) -> None:
    """Side by side, with folded reasoning, and with colours for what the model was unsure of."""
    unsure = {"two": 0.6, "three": 0.4, "four": 0.1}
    texts = ["One, two, three.", "One, four."]
    model = serve_page(reply_sse(*deltas(*texts, thoughts="I count.", unsure=unsure), usage(12)))
    page.ask("Count, please.", 2)
    shown = page.wait_end()

    assert texts == shown.texts
    assert ["whole", "whole"] == shown.states
    assert shown.status.startswith("Done: 12 tokens in ")
    assert (None, False) == (shown.problem, shown.running)
    first, second = shown.answers
    assert ("I count.", False) == (first.thoughts, first.open)
    assert [["two", "60 %", "t1"], ["three", "40 %", "t2"]] == [token for token in first.tokens if token[2]]
    assert ["four", "10 %", "t3"] in second.tokens
    assert ("Least sure of “three” 40 %", "Least sure of “four” 10 %") == (first.least, second.least)
    boxes = [article.rect for article in page.driver.find_elements("css selector", "article")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]

    page.find("summary").click()
    assert page.read().answers[0].open
    page.find("#sure").click()
    assert "rgba(0, 0, 0, 0)" == page.find(".text .t3").value_of_css_property("background-color")

    sent = model.requests[0].json
    assert ("Count, please.", 2, True) == (sent["messages"][0]["content"], sent["n"], sent["logprobs"])
    assert [] == page.complaints()


def test_answers_are_shown_while_they_are_written(serve_page: ServePage, page: ChatPage) -> None:
    gate = Gate()
    begun = writes(deltas("One,", "Un,", thoughts="Hm.", finish_reason=None))
    rest = [http_chunk(sse(*deltas(" two.", " deux."))), http_chunk(b"")]
    serve_page(reply_writes([*begun, gate, *rest]))
    page.ask("Count", 2)
    shown = page.wait(lambda shown: shown.texts == ["One,", "Un,"])
    assert ["writing", "writing"] == shown.states
    assert shown.running and shown.status == "Answering …"
    gate.open()
    assert ["One, two.", "Un, deux."] == page.wait_end().texts


def test_characters_in_several_tokens(serve_page: ServePage, page: ChatPage) -> None:
    """The text is what the deltas say, however their tokens are cut."""
    first, second = logprobs("bytes:\\xf0\\x9f", 0.9), logprobs("bytes:\\x91\\x8b", 0.05)
    serve_page(reply_sse(chunk(logprobs=first), chunk("👋", logprobs=second), chunk(finish_reason="stop")))
    page.ask("Wave")
    (answer,) = page.wait_end().answers
    assert ("👋", [["👋", "5 %", "t3"]]) == (answer.text, answer.tokens)


@both_services
def test_stop(serve_page: ServePage, page: ChatPage) -> None:
    """The model's server sees the close within 100 ms of the click.

    The page notes when the click arrives, and the server when its connection closes, by the clock of the machine. A busy
    machine can delay any one close, but not each of them: the best of several tries shows what the program needs.
    """
    model = serve_page(handler=ENDLESS)
    page.run("addEventListener('click', () => { window.clicked = Date.now() }, true)")
    delays: list[float] = []
    while not delays or (min(delays) > 0.1 and len(delays) < 5):
        page.ask("Count", 2)
        page.wait(lambda shown: "two" in shown.texts[0])
        page.find("#stop").click()
        page.wait_end()
        model.wait_closed_connections(timeout=10)
        delays.append(_wall_clock(model) - page.run("return window.clicked") / 1000)
    assert min(delays) < 0.1, delays

    shown = page.read()
    assert ("One, two,", "stopped") == (shown.answers[0].text, shown.states[0])
    assert ("You stopped the answers.", "Try again", True) == (shown.problem, shown.again, shown.ready)
    model.push(WHOLE)
    page.find("#again").click()
    assert "Five." in page.wait(lambda shown: "whole" in shown.states).texts
    assert [] == page.complaints()


def _wall_clock(model: ThreadedServer) -> float:
    """Return when the connection of the last request closed, by the clock of the wall."""
    closed = model.requests[-1].closed_at
    assert closed is not None
    return closed + time.time() - time.monotonic()


@both_services
def test_stop_before_the_model_answers(serve_page: ServePage, page: ChatPage) -> None:
    model = serve_page(reply_writes([HOLD]))
    page.ask("Count")
    model.wait_requests(timeout=10)
    page.find("#stop").click()
    model.wait_closed_connections(timeout=10)
    assert ("No answer came.", []) == (page.read().status, page.read().answers)


@both_services
def test_a_cut_answer(serve_page: ServePage, page: ChatPage) -> None:
    """What came stays, and is called cut; what ended before is whole; a second try replaces both."""
    gate = Gate()
    begun = [*deltas("Whole."), *deltas("", "Half of", finish_reason=None)]
    model = serve_page(reply_writes([*writes(iter(begun)), gate, RESET]), WHOLE)
    page.ask("Count", 2)
    page.wait(lambda shown: shown.texts == ["Whole.", "Half of"])
    gate.open()
    shown = page.wait_end()
    assert ["Whole.", "Half of"] == shown.texts
    assert ["whole", "cut off"] == shown.states
    assert ("The answer broke off.", "Try again") == (shown.problem, shown.again)
    assert "Whole: 1 of 2 answers." == shown.status
    assert "cut here" in page.run(
        "return getComputedStyle(document.querySelector('.cut .text'), '::after').content"
    )

    page.find("#again").click()
    shown = page.wait(lambda shown: "Five." in shown.texts and not shown.running)
    assert (["whole", "no answer"], None) == (shown.states, shown.problem)  # the model gave one of two
    assert model.requests[0].json == model.requests[1].json


def test_an_answer_that_goes_on_after_its_end(serve_page: ServePage, page: ChatPage) -> None:
    """It is whole if the stream ends as it should, and cut if the stream breaks off."""
    gate = Gate()
    chunks = [chunk("One,"), chunk(finish_reason="stop"), chunk(" two.")]
    serve_page(reply_sse(*chunks), reply_writes([*writes(iter(chunks)), gate, RESET]))
    page.ask("Count")
    assert (["One, two."], ["whole"]) == ((shown := page.wait_end()).texts, shown.states)
    page.ask("Count")
    page.wait(lambda shown: shown.texts == ["One, two."] and shown.states == ["writing"])
    gate.open()
    assert ["cut off"] == page.wait_end().states


@pytest.mark.parametrize(
    ("reason", "state"), [("length", "cut: too long"), ("content_filter", "cut by a filter")]
)
def test_an_answer_cut_by_the_model(serve_page: ServePage, page: ChatPage, reason: str, state: str) -> None:
    serve_page(reply_sse(*deltas("Once upon", finish_reason=reason), usage(2)))
    page.ask("Tell")
    (answer,) = page.wait_end().answers
    assert ("cut", state, "Once upon") == (answer.kind, answer.state, answer.text)


@both_services
def test_a_stalled_answer(serve_page: ServePage, page: ChatPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(example("chat").CLIENT, "timeout", Timeout(first_token=20, idle=0.5))
    model = serve_page(ENDLESS)
    page.ask("Count")
    shown = page.wait_end()
    assert ("The model fell silent.", "One, two,") == (shown.problem, shown.texts[0])
    assert ["cut off"] == shown.states
    model.wait_closed_connections(timeout=10)


@both_services
def test_a_wrong_key(serve_page: ServePage, page: ChatPage, caplog: pytest.LogCaptureFixture) -> None:
    """The visitor learns nothing about key, model or host, and cannot help it; the log has the rest."""
    serve_page(reply_json({"message": f"no such key: {KEY}"}, 401))
    page.ask("Count")
    shown = page.wait_end()
    assert "This service is not set up correctly. Please tell its owner." == shown.problem
    assert shown.again is None
    everything = page.run("return document.documentElement.outerHTML").casefold()
    for secret in (KEY, KEY[-6:], "127.0.0.1", "gpt-oss", "gradient", "401", "authentication"):
        assert secret.casefold() not in everything
    assert shown.detail is not None
    (line,) = [record.getMessage() for record in caplog.records if record.name == "chat"]
    assert shown.detail.removeprefix("Reference ") in line
    assert "answered 401" in line and KEY not in line


@both_services
def test_a_busy_model(serve_page: ServePage, page: ChatPage) -> None:
    """The second try waits as long as the server asks for."""
    model = serve_page(reply_json({"message": "slow down"}, 429, {"retry-after": "600"}))
    page.ask("Count")
    shown = page.wait_end()
    assert ("The model is busy. Please try again later.", False) == (shown.problem, shown.ready)
    assert shown.again is not None and shown.again.startswith("Try again in ")
    assert 1 == len(model.requests)  # the client does not wait so long by itself


def test_the_wait_of_a_busy_model_ends(serve_page: ServePage, page: ChatPage) -> None:
    serve_page(reply_json({"message": "slow down"}, 429, {"retry-after": "6"}), WHOLE)
    page.ask("Count")
    page.wait(lambda shown: (shown.again or "").startswith("Try again in "))
    page.run("const now = performance.now.bind(performance); performance.now = () => now() + 6000")
    page.wait(lambda shown: shown.again == "Try again" and shown.ready)
    page.find("#again").click()
    assert ["Five."] == page.wait(lambda shown: bool(shown.answers) and not shown.running).texts


def test_two_tabs_at_once(serve_page: ServePage, page: ChatPage, keys: Any) -> None:
    """Each has its own answers, and stops its own."""
    gate = Gate()
    rest = [http_chunk(sse(*deltas(" four."))), http_chunk(b"")]
    model = serve_page(reply_writes([*writes(deltas("Three,", finish_reason=None)), gate, *rest]), ENDLESS)
    first = page.driver.current_window_handle
    page.ask("Count to four")
    page.wait(lambda shown: shown.texts == ["Three,"])
    second = page.open()
    page.ask("Count to two")
    page.wait(lambda shown: shown.texts == ["One, two,"])
    page.keys(keys.ESCAPE)
    assert ["stopped"] == page.wait_end().states
    model.wait_closed_connections(1, timeout=10)
    gate.open()  # the first tab is in the background, and goes on
    page.driver.switch_to.window(first)
    shown = page.wait_end()
    assert (["Three, four."], ["whole"]) == (shown.texts, shown.states)
    assert first != second


def test_leaving_the_page_stops_the_model(serve_page: ServePage, page: ChatPage) -> None:
    """A browser keeps a page that a visitor left for some time, connections included."""
    model = serve_page(handler=ENDLESS)
    page.ask("Count")
    page.wait(lambda shown: shown.texts == ["One, two,"])
    page.leave()
    model.wait_closed_connections(timeout=10)
    page.driver.back()
    assert [] != page.wait(lambda shown: not shown.running).states

    page.open()
    page.ask("Count")
    page.wait(lambda shown: shown.texts == ["One, two,"])
    page.driver.close()
    model.wait_closed_connections(timeout=10)
    page.driver.switch_to.window(page.driver.window_handles[0])


def test_a_keyboard_is_enough(serve_page: ServePage, page: ChatPage, keys: Any) -> None:
    """The focus is always on something that is shown, and what has it is marked."""
    serve_page(ENDLESS, reply_sse(*deltas("Five.", "Cinq.", thoughts="Hm."), usage(4)))
    assert "prompt" == page.read().focus
    page.keys("Count", keys.SHIFT, keys.ENTER, keys.NULL, "to five")
    assert "Count\nto five" == page.find("#prompt").get_attribute("value")
    page.keys(keys.TAB)
    page.keys(keys.ARROW_LEFT)
    assert "2" == page.run("return document.querySelector('[name=n]:checked').value")
    marked = page.run(
        "return getComputedStyle(document.querySelector('[name=n]:checked + span')).outlineStyle"
    )
    assert "solid" == marked
    page.keys(keys.TAB)
    assert "ask" == page.read().focus
    assert "solid" == page.find("#ask").value_of_css_property("outline-style")
    page.keys(keys.SPACE)
    assert "stop" == page.wait(lambda shown: "One, two," in shown.texts).focus
    page.keys(keys.SPACE)
    assert "again" == page.wait_end().focus
    page.keys(keys.ENTER)
    shown = page.wait(lambda shown: "Five." in shown.texts and not shown.running)
    assert "ask" == shown.focus
    page.keys(keys.TAB)  # to the colours
    page.keys(keys.TAB)  # to the reasoning
    page.keys(keys.ENTER)
    assert [True, False] == [answer.open for answer in page.read().answers]
    assert [] == page.complaints()


def test_enter_asks_and_escape_stops(serve_page: ServePage, page: ChatPage, keys: Any) -> None:
    model = serve_page(ENDLESS)
    page.keys("Count", keys.ENTER)
    assert "prompt" == page.wait(lambda shown: "One, two," in shown.texts).focus
    page.keys(keys.ENTER)  # while answers are written, Enter asks nothing
    page.keys(keys.ESCAPE)
    shown = page.wait_end()
    assert ("prompt", "You stopped the answers.") == (shown.focus, shown.problem)
    model.wait_closed_connections(timeout=10)
    assert 1 == len(model.requests)


@both_services
def test_markup_in_an_answer_is_text(serve_page: ServePage, page: ChatPage) -> None:
    """It is shown as the model wrote it; nothing of it becomes an element, and nothing runs."""
    attack = "<script>hacked = 1</script><img src=x onerror='hacked = 2'><b>bold</b>"
    serve_page(
        reply_sse(
            *deltas(attack, thoughts=attack),
            chunk(attack, index=1),
            chunk(index=1, finish_reason="<b>stop</b>"),
            usage(2),
        )
    )
    page.ask(attack, 2)
    shown = page.wait_end()
    assert [attack, attack] == shown.texts
    assert attack.replace(" ", "") == shown.answers[0].thoughts.replace(" ", "")
    assert page.run("return window.hacked === undefined && !document.querySelector('img, b, article script')")
    # Were the page to insert markup, its policy would refuse that.
    refused = page.run("try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name }")
    assert "TypeError" == refused


def test_what_the_service_refuses(serve_page: ServePage, page: ChatPage) -> None:
    model = serve_page()
    page.find("#ask").click()
    assert page.run("return document.querySelector('#prompt:invalid') !== null && !running")
    page.ask("   ")
    shown = page.wait_end()
    assert "Ask for 1 to 4 answers, with up to 4000 characters." == shown.problem
    assert [] == model.requests


def test_the_service_goes_away(serve_page: ServePage, page: ChatPage) -> None:
    """Without a last event the answers are cut, whatever ended the connection."""
    serve_page(ENDLESS)
    page.ask("Count")
    page.wait(lambda shown: shown.texts == ["One, two,"])
    page.run("fetch = async () => new Response('<h1>502 Bad Gateway</h1>', { status: 502 })")
    page.find("#stop").click()
    page.wait_end()
    page.find("#again").click()
    shown = page.wait(lambda shown: shown.problem != "You stopped the answers." and not shown.running)
    assert "The connection to this service was lost." == shown.problem
    page.run("""
        const half = 'data: {"type": "text", "answer": 0, "text": "Half of"}\\n\\n';
        fetch = async () => new Response(half);
    """)
    page.find("#again").click()
    shown = page.wait(lambda shown: shown.texts == ["Half of"] and not shown.running)
    assert (["cut off"], "The connection to this service was lost.") == (shown.states, shown.problem)


# The contrast of each text with what is behind it, by the definition in WCAG 2.2; what is not shown is left out.
_CONTRASTS = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const paint = (colours) => {
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((each) => (each /= 255) <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!(own || element.value) || !element.checkVisibility() || element.matches("script, style, [type=radio], [type=checkbox]")) continue;
  const behind = [];
  for (let each = element; each; each = each.parentElement) behind.unshift(getComputedStyle(each).backgroundColor);
  const colours = [getComputedStyle(element).color, getComputedStyle(element, "::after").color];
  for (const colour of colours) {
    const [one, other] = [luminance(paint(behind)), luminance(paint([...behind, colour]))].sort((a, b) => b - a);
    found.push([(one + 0.05) / (other + 0.05), element.outerHTML.slice(0, 80)]);
  }
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(serve_page: ServePage, page: ChatPage, scheme: str) -> None:
    """At least 4.5 to 1, in answers of every state and on every colour, light and dark."""
    unsure = {"a": 0.6, "b": 0.4, "c": 0.1}
    gate = Gate()
    begun = [*deltas("a b c d", thoughts="Hm.", unsure=unsure), *deltas("", "a b", finish_reason=None)]
    serve_page(reply_writes([*writes(iter(begun)), gate, RESET]), reply_json({}, 429, {"retry-after": "600"}))
    page.look((1180, 820, 1.0), scheme)
    seen: list[Any] = []
    page.ask("Count", 2)
    page.wait(lambda shown: shown.texts == ["a b c d", "a b"])
    page.find("summary").click()
    seen += page.run(_CONTRASTS)
    gate.open()
    page.wait_end()
    seen += page.run(_CONTRASTS)
    page.find("#again").click()
    page.wait(lambda shown: (shown.again or "").startswith("Try again in "))
    seen += page.run(_CONTRASTS)
    assert len(seen) > 60
    assert [] == [each for each in seen if each[0] < 4.5]


def test_names_and_roles(serve_page: ServePage, page: ChatPage) -> None:
    """A screen reader has a name for everything that can be used, and hears what changes."""
    begun = writes(deltas("Five.", "Cinq.", thoughts="Hm.", unsure={"Five": 0.3}, finish_reason=None))
    serve_page(reply_writes([*begun, HOLD]))
    page.ask("Count", 2)
    page.wait(lambda shown: shown.texts == ["Five.", "Cinq."])
    assert "true" == page.find("#answers").get_attribute("aria-busy")
    page.find("#stop").click()
    page.wait_end()
    used = page.driver.find_elements(
        "css selector", "button, input, textarea, summary, article, section, fieldset"
    )
    named = {
        element.accessible_name
        for element in used
        if page.run("return arguments[0].checkVisibility()", element)
    }
    assert {
        "Your question",
        "Answers",
        "1",
        "4",
        "Ask",
        "Try again",
        "Reasoning",
        "Answer 1",
        "Answer 2",
    } <= named
    assert "" not in named
    assert ["status", "alert"] == [page.find(each).aria_role for each in ("#status", "#problem p")]
    assert "false" == page.find("#answers").get_attribute("aria-busy")
    levels = page.run("return [...document.querySelectorAll('h1, h2')].map((each) => each.tagName)")
    assert ["H1", "H2", "H2"] == levels


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone(serve_page: ServePage, page: ChatPage, width: int) -> None:
    """Answers are below each other, nothing runs off the screen, and fingers find every control."""
    long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    serve_page(
        reply_sse(
            *deltas(long, f"See https://example.com/{long}", thoughts=long, unsure={long: 0.3}), usage(4)
        )
    )
    page.look((width, 844, 2.0))
    page.ask("Count", 2)
    page.wait_end()
    page.find("summary").click()
    assert width >= page.run("return document.documentElement.scrollWidth")
    boxes = [article.rect for article in page.driver.find_elements("css selector", "article")]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    controls = page.driver.find_elements(
        "css selector", "button, textarea, summary, fieldset label, #colours"
    )
    for control in controls:
        if control.is_displayed():
            assert control.rect["height"] >= 44 and control.rect["width"] >= 44, control.get_attribute(
                "outerHTML"
            )


@pytest.mark.parametrize(("motion", "running"), [("reduce", 0), ("no-preference", 1)])
def test_motion(serve_page: ServePage, page: ChatPage, motion: str, running: int) -> None:
    """Nothing moves for those who do not want that."""
    serve_page(ENDLESS)
    page.look((1180, 820, 1.0), motion=motion)
    page.ask("Count")
    page.wait(lambda shown: shown.texts == ["One, two,"])
    assert running == page.run("return document.getAnimations().length")


def test_the_page_needs_nothing_from_elsewhere(serve_page: ServePage, page: ChatPage) -> None:
    """One file, and a policy that permits nothing else."""
    serve_page(WHOLE)
    page.ask("Count")
    page.wait_end()
    names = page.run(
        "return performance.getEntriesByType('resource').map((each) => new URL(each.name).pathname)"
    )
    assert ["/answers"] == names
    page.run("document.body.append(Object.assign(document.createElement('img'), { src: '/pixel.png' }))")
    page.wait(lambda _: any("Content Security Policy" in each for each in page.complaints()))
