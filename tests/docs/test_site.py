"""The built site: no warning, no link that leads nowhere, a search that finds, and nothing from other hosts."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
from pages import ROOT

DOCS = ROOT / "docs"
EXTRA = ("copybutton", "design")  # extensions of Sphinx, of the extra `docs`


class Page(HTMLParser):
    """What a page links, loads and names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in {"script", "img", "iframe"} and "src" in values:
            self.loaded.append(values["src"])
        elif tag == "link" and values.get("rel") == "stylesheet":
            self.loaded.append(values["href"])


class Site:
    """The folder that Sphinx made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> dict[Path, Page]:
        return {path.resolve(): Page(path) for path in sorted(self.folder.rglob("*.html"))}

    @cached_property
    def index(self) -> dict[str, Any]:
        text = (self.folder / "searchindex.js").read_text("utf-8")
        found: dict[str, Any] = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
        return found

    def search(self, query: str) -> set[str]:
        """Return the pages that have every word of a query, as the search of the site does.

        It knows no numbers but those of the index.
        """
        stem = importlib.import_module("sphinx.search.en").SearchEnglish({}).stem
        found = set(self.index["docnames"])
        for word in query.lower().split():
            places = {entry[0] for entry in self.index["indexentries"].get(word, [])}
            for terms in (self.index["terms"], self.index["titleterms"]):
                pages: list[int] | int = terms.get(stem(word), [])
                places |= {pages} if isinstance(pages, int) else set(pages)
            found &= {self.index["docnames"][place] for place in places}
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    for package in ("furo", "myst_parser", "sphinx", *(f"sphinx_{name}" for name in EXTRA)):
        pytest.importorskip(package, reason="the extra docs builds the site")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    built = subprocess.run(  # our own interpreter
        [*command, "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert 0 == built.returncode, built.stderr
    return Site(folder / "html")


def test_every_link_leads_somewhere(site: Site) -> None:
    """A relative link names a file that was built, and its fragment a place in that file."""
    broken: list[str] = []
    for path, page in site.pages.items():
        for link in page.links:
            target, fragment = urldefrag(link)
            if re.match(r"\w+:", target):
                continue
            file = (path.parent / unquote(target)).resolve() if target else path
            ids = site.pages[file].ids if file in site.pages else {""}
            if not file.is_file() or unquote(fragment) not in {"", *ids}:
                broken.append(f"{path.relative_to(site.folder.resolve())}: {link}")
    assert [] == broken


@pytest.mark.parametrize(("page", "run"), [("run", "ToolRun"), ("sync", "sync.run.ToolRun")])
def test_the_state_of_a_run_is_in_the_reference(site: Site, page: str, run: str) -> None:
    """A base class that is not public has it."""
    ids = site.pages[(site.folder / "api" / f"{page}.html").resolve()].ids
    missing = {"turns", "messages", "usage", "completion", "close"} - {
        name.removeprefix(f"gradient_async.{run}.") for name in ids
    }
    assert set() == missing


def test_a_page_loads_nothing_from_elsewhere(site: Site) -> None:
    """The site works without a network."""
    for path, page in site.pages.items():
        assert [] == [address for address in page.loaded if re.match(r"(\w+:)?//", address)], path


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("structured output", "answers"),
        ("json_schema", "answers"),
        ("map", "api/map"),
        ("image", "images"),
        ("429", "api/errors"),
    ],
)
def test_the_search_finds(site: Site, query: str, page: str) -> None:
    assert page in site.search(query)


def test_every_page_is_in_the_list_for_language_models(site: Site) -> None:
    listed = set(re.findall(r"\((\S+\.html)\): \S", (site.folder / "llms.txt").read_text("utf-8")))
    written = {f"{name}.html" for name in site.index["docnames"]}
    assert written - {"index.html"} == listed


def test_pictures_are_parts_of_their_pages(site: Site) -> None:
    """As an image, a picture would not follow the switch of the theme."""
    shown = "".join(path.read_text("utf-8") for path in site.pages)
    for picture in DOCS.glob("pictures/*.svg"):
        (label,) = re.findall(r'role="img" aria-label="([^"]+)"', picture.read_text("utf-8"))
        assert label in shown, picture.name
        assert f"/{picture.name}" not in shown


def test_charts_are_images_for_each_theme(site: Site) -> None:
    """The theme shows the one that fits, and hides the other."""
    shown = (site.folder / "performance.html").read_text("utf-8")
    charts = {path.name for path in DOCS.glob("performance/*.svg")}
    assert charts
    for theme in ("light", "dark"):
        images = set(re.findall(rf'<img [^>]*class="only-{theme}" src="_images/([^"]+)"', shown))
        assert {name for name in charts if name.endswith("-dark.svg") == (theme == "dark")} == images


def test_the_reference_has_what_the_guides_name(site: Site) -> None:
    """Methods and attributes of streams and fan-outs, inherited ones included."""
    for guide, variable, page, owner in (
        ("streaming", "stream", "streams", "ChatCompletionStream"),
        ("fan-out", "fan", "fan-out", "FanOut"),
        ("tools", "run", "run", "ToolRun"),
    ):
        text = (DOCS / f"{guide}.md").read_text("utf-8")
        named = set(re.findall(rf"`(?:await )?{variable}\.(\w+)", text))
        ids = site.pages[(site.folder / "api" / f"{page}.html").resolve()].ids
        assert set() == {name for name in named if f"gradient_async.{owner}.{name}" not in ids}, guide


def test_a_long_signature_has_a_parameter_a_line(site: Site) -> None:
    """A phone can show it."""
    page = (site.folder / "api" / "client.html").read_text("utf-8")
    (signature,) = re.findall(r'<dt [^>]*id="gradient_async.AsyncGradient">(.*?)</dt>', page, re.DOTALL)
    parameters = re.findall(r'<dd>\s*<em class="sig-param">', signature)
    assert signature.count('class="sig-param"') == len(parameters) > 1


def test_pictures_have_one_style() -> None:
    """Each file is whole by itself, with a copy of the style."""
    style = (DOCS / "pictures" / "style.css").read_text("utf-8").partition("*/\n")[2]
    pictures = list(DOCS.glob("pictures/*.svg"))
    assert pictures
    for picture in pictures:
        text = picture.read_text("utf-8")
        assert f"<style>\n{style}</style>" in text or 'class="terminal"' in text, picture.name
