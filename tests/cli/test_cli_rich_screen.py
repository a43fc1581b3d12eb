"""What is drawn on a terminal."""

from __future__ import annotations

import io
import random
from contextlib import closing
from typing import Any

import pyte
import pytest
from rich.console import Console

from gradient_async.cli.display import Progress
from gradient_async.cli.rich_screen import (
    AnswerScreen,
    BarScreen,
    Pane,
    PanelScreen,
    colour_of,
    has_colours,
    last_block,
)

MARKDOWN = """\
# A title

A paragraph with **bold** text and a [link](https://example.com/x).

1. one
2. two

   of the second
3. three

```python
def f(x):

    return x
```

| a | b |
|---|---|
| 1 | 2 |

The end.
"""


class Out(io.StringIO):
    """A terminal, of which the test can see what it shows."""

    def __init__(self, width: int = 80, height: int = 24, **options: Any) -> None:
        super().__init__()
        self._screen: Any = pyte.HistoryScreen(width, height, history=100_000)
        self._stream: Any = pyte.Stream(self._screen)
        options = {"color_system": "truecolor", **options}
        self.console = Console(
            file=self,
            force_terminal=True,
            width=width,
            height=height,
            highlight=False,
            _environ={},
            **options,
        )
        self._width = width
        self._drawn = 0

    def shown(self) -> str:
        """What was drawn and is not erased."""
        text = self.getvalue()[self._drawn :]
        self._drawn += len(text)
        self._stream.feed(text.replace("\n", "\r\n"))
        above = [
            "".join(line[x].data for x in range(self._width)).rstrip() for line in self._screen.history.top
        ]
        return "\n".join([*above, *(line.rstrip() for line in self._screen.display)]).rstrip()


def refresh(screen: Any) -> None:
    """Draw now, as the timer does."""
    live = screen._live
    assert live is not None
    live.refresh()


# One answer


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_markdown_is_formatted(width: int, size: int) -> None:
    """However it is cut into pieces."""
    out = Out(width)
    with closing(AnswerScreen(out.console)) as screen:
        for start in range(0, len(MARKDOWN), size):
            screen.append(0, MARKDOWN[start : start + size])
    shown = out.shown().split("\n")
    assert "A title" == shown[0].strip()
    for line in (" 1 one", " 2 two", "   of the second", " 3 three", "     return x", "The end."):
        assert line in shown
    assert "**" not in "".join(shown)
    assert "(https://example.com/x)" in "".join(shown)  # where a link leads is seen
    assert all(line == line.rstrip() for line in out.getvalue().split("\n") if "\x1b" not in line)


def test_blocks_are_printed_as_they_end() -> None:
    """Only the last block is drawn again, so a long answer costs no more than its length."""
    out = Out()
    screen = AnswerScreen(out.console)
    screen.append(0, MARKDOWN)
    assert "The end." == "".join(screen._block).strip()
    screen.close()


def test_the_end_of_a_long_block_is_followed() -> None:
    """And all of it is there in the end, once."""
    out = Out(40, 10)
    with closing(AnswerScreen(out.console)) as screen:
        screen.append(0, "```\n" + "".join(f"line {number}\n" for number in range(100)))
        refresh(screen)
        lines = out.shown().split("\n")
        assert "… 92 lines above" == lines[0].strip()
        assert "line 99" == lines[-1].strip()
        assert len(lines) <= 10
    assert [f"line {number}" for number in range(100)] == [line.strip() for line in out.shown().split("\n")]


@pytest.mark.parametrize("line", ["**word** " * 2000, "**word**\n" * 2000])
def test_a_block_too_long_to_format_at_each_refresh_is_followed(line: str) -> None:
    """And formatted in the end."""
    out = Out(80, 10)
    with closing(AnswerScreen(out.console)) as screen:
        for start in range(0, len(line), 100):
            screen.append(0, line[start : start + 100])
        refresh(screen)
        assert "lines above" in out.shown()
        assert "**word**" in out.shown()
    assert ["word"] * 2000 == out.shown().split()


@pytest.mark.parametrize("line", ["[" * 99 + " ", "**word**\n"])
@pytest.mark.parametrize("size", [100, 10_000_000])
def test_a_block_too_long_to_format_at_all(line: str, size: int) -> None:
    """A server can make that take minutes. The text is shown as it is, and nothing is added to it."""
    out = Out()
    text = line * (100_000 // len(line))
    with closing(AnswerScreen(out.console)) as screen:
        screen.append(0, "# Title\n\n")
        for start in range(0, len(text), size):
            screen.append(0, text[start : start + size])
    shown = out.shown()
    assert "Title" in shown.split("\n")[0]
    assert "".join(text.split()) == "".join(shown.split()).removeprefix("#").removeprefix("Title")


@pytest.mark.parametrize("character", ["\u202e", "\x9b", "\x0c"])
def test_characters_that_markdown_names_are_escaped(character: str) -> None:
    out = Out()
    name = f"&#{ord(character)};"
    with closing(AnswerScreen(out.console)) as screen:
        screen.append(
            0, f"a{name}b `c{name}` [d{name}](http://x/{name})\n\n```\n{name}\n```\n\n<b title='{name}'>\n\n"
        )
        screen.append(0, f"| {name} |\n|---|\n| {name} |\n\n![e{name}](f{name})\n")
    assert character not in out.getvalue()


def test_kinds_of_text() -> None:
    out = Out()
    with closing(AnswerScreen(out.console)) as screen:
        screen.append(0, "let me ", "reasoning")
        screen.append(0, "see", "reasoning")
        screen.append(0, "Well: ")
        screen.append(0, "yes", "text", 0.95)
        screen.append(0, " no", "text", 0.1)
        screen.append(0, "f({})", "call")
        screen.append(0, "I refuse", "refusal")
    assert "let me see\n\nWell:\nyes no\n→ f({})\nI refuse" == out.shown()
    assert "\x1b[32myes" in out.getvalue()
    with closing(AnswerScreen(Out().console)):
        pass


def test_nothing_is_nothing() -> None:
    out = Out()
    with closing(AnswerScreen(out.console)) as screen:
        screen.append(0, "\n")
    assert "" == out.shown()


def test_a_value_replaces_its_text() -> None:
    out = Out(40, 10)
    with closing(AnswerScreen(out.console, value=True)) as screen:
        screen.append(0, '{"a": [\n' + "1,\n" * 100 + "1]}")
        refresh(screen)
        assert "lines above" in out.shown()
        screen.show_value(0, {"a": ["\u202e", 1]})
    assert '{\n  "a": [\n    "\\u202e",\n    1\n  ]\n}' == out.shown()


def test_a_text_that_is_no_value_stays() -> None:
    out = Out()
    with closing(AnswerScreen(out.console, value=True)) as screen:
        screen.append(0, "Sorry, **no**")
    assert "Sorry, **no**" == out.shown()


def test_blocks_are_told_apart() -> None:
    for text, rest in (
        ("", ""),
        ("a\n", "a\n"),
        ("a\n\nb", "b"),
        ("- a\n\n- b", "- a\n\n- b"),
        ("[a]: b\n", "[a]: b\n"),
    ):
        assert rest == text[last_block(text) :]


def test_colours() -> None:
    assert ["green", "yellow", "dark_orange", "red"] == [
        colour_of(chance) for chance in (0.95, 0.7, 0.4, 0.0)
    ]
    assert has_colours(Out().console)
    assert not has_colours(Out(no_color=True).console)
    assert not has_colours(Out(color_system=None).console)


# Several answers


@pytest.mark.parametrize("pieces", [["a", "word ", "日本 ", "\n", " \n", "  "], ["long" * 5, "日本語", "\n"]])
def test_the_tail_of_a_growing_text_is_what_wrapping_it_anew_gives(pieces: list[str]) -> None:
    """Cut at random, at sizes that change."""
    chance = random.Random(17)
    console = Out().console
    for _ in range(50):
        pane = Pane()
        for _ in range(40):
            pane.append(chance.choice(pieces) * chance.randrange(4))
            width, height = chance.choice([(16, 3), (16, 3), (16, 3), (30, 3), (16, 5)])
            lines = pane.text.wrap(console, width)
            expected = [line.plain for line in lines[-height:]]
            if len(lines) > height:
                expected[0] = f"… {len(lines) - height + 1} lines above"
            assert expected == pane.tail(console, width, height).plain.split("\n")


@pytest.mark.parametrize(
    ("width", "height", "panes"), [(40, 24, 3), (80, 24, 3), (80, 24, 8), (200, 50, 8), (40, 9, 2)]
)
def test_answers_side_by_side_are_followed(width: int, height: int, panes: int) -> None:
    """Each shows its end, and how much is above; in the end everything is there."""
    out = Out(width, height)
    screen = PanelScreen(out.console, panes)
    for number in range(30):
        for pane in range(panes):
            screen.append(pane, f"{pane}:{number}\n")
    refresh(screen)
    lines = out.shown().split("\n")
    assert len(lines) <= height
    for pane in range(panes):
        assert f"choice {pane}" in out.shown()
        assert f"{pane}:29" in out.shown()
        assert f"{pane}:1 " not in out.shown()
    assert panes == out.shown().count("lines above")
    screen.close()
    for pane in range(panes):
        for number in range(30):
            assert f" {pane}:{number} " in out.shown()
    assert "lines above" not in out.shown()


def test_more_answers_than_fit() -> None:
    out = Out(40, 10)
    with closing(PanelScreen(out.console, 9)) as screen:
        for pane in range(9):
            screen.append(pane, "text")
        refresh(screen)
        assert "… 5 more" in out.shown()
    assert all(f"choice {pane}" in out.shown() for pane in range(9))


def test_panels_have_kinds_values_and_answers_that_nobody_asked_for() -> None:
    out = Out()
    with closing(PanelScreen(out.console, 2)) as screen:
        screen.append(0, "hm", "reasoning")
        screen.append(0, "yes", "text", 0.95)
        screen.append(0, "f({})", "call")
        screen.append(1, "{")
        screen.show_value(1, {"a": 1})
        screen.append(2, "three")
    shown = out.shown()
    for text in ("hmyes", "→ f({})", '"a": 1', "choice 2", "three"):
        assert text in shown


# Progress


@pytest.mark.parametrize(("width", "bar"), [(40, False), (80, True), (200, True)])
def test_counts_are_never_lost(width: int, *, bar: bool) -> None:
    """On a narrow terminal the bar gives way."""
    out = Out(width)
    with closing(BarScreen(out.console)) as screen:
        shown = Progress(screen)
        shown.progress(3, 4, "12.3 requests/s, 456 tokens/s, 0 failed, 17 s left")
        shown.say("in.jsonl:7: [bold]not\x1b[31m JSON")
    text = " ".join(out.shown().split())
    assert "in.jsonl:7: [bold]not\\x1b[31m JSON" in text.replace("\n", "")
    assert "3/4 12.3 requests/s, 456 tokens/s, 0 failed, 17 s left" in text
    assert bar == ("━" in text)
