"""What the README promises beside its examples."""

from __future__ import annotations

import re
from importlib import metadata

from pages import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def test_begins_with_two_commands() -> None:
    """After the title come two shell blocks of one line each: the main job, then all tests."""
    found = re.match(r"# [^\n]+\n\n```sh\n([^\n]+)\n```\n\n```sh\n([^\n]+)\n```\n", README)
    assert found is not None
    first, second = found.groups()
    assert first.endswith("gradient-async demo")
    assert "'.[cli]'" in first
    assert second.endswith("python -m pytest -q -n 4")
    assert "'.[test]'" in second
    for command in (first, second):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q ")


def test_is_short() -> None:
    assert len(README.splitlines()) < 150


def test_links_lead_somewhere() -> None:
    """Every relative link of the README names a file."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target


def test_links_of_the_packages_page_lead_into_the_repository() -> None:
    """No link of the README is relative there, and each one names a file that is in the repository."""
    page = metadata.distribution("gradient_async").read_text("METADATA") or ""
    (homepage,) = re.findall(r"^Project-URL: Homepage, (.+)$", page, re.MULTILINE)
    links = re.findall(r"\]\(([^)]+)\)", page)
    places = tuple(f"{homepage}/{kind}/main/" for kind in ("blob", "raw"))  # of pages, and of pictures
    ours = [re.sub("^.*?/main/", "", link) for link in links if link.startswith(places)]
    assert [link for link in links if not link.startswith("https://")] == []
    assert sorted(re.findall(r"\]\((?!https?:)([^)#]+)", README)) == sorted(ours)
