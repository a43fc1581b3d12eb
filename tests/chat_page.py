"""Reads and uses chat.html in a browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gradient_async.testing import Handler, ThreadedServer

SECONDS = 20  # to wait for what has to happen, on a busy machine

# What the page shows, as plain data.
_READ = """
const shown = (element) => element && element.checkVisibility() ? element.innerText.trim() : null;
return {
  status: document.getElementById("status").textContent,
  problem: shown(document.querySelector("#message")),
  detail: shown(document.querySelector("#detail")),
  again: shown(document.querySelector("#again")),
  ready: document.getElementById("again").disabled === false,
  focus: document.activeElement.id || document.activeElement.tagName,
  running: document.getElementById("stop").checkVisibility(),
  answers: [...document.querySelectorAll("article")].map((article) => ({
    kind: article.classList[1],
    state: article.querySelector(".state").textContent,
    text: article.querySelector(".text").textContent,
    thoughts: article.querySelector(".thoughts").textContent,
    open: article.querySelector("details").open,
    least: shown(article.querySelector(".least")),
    tokens: [...article.querySelectorAll(".text span")].map((token) => [token.textContent, token.title, token.className]),
  })),
};
"""


class ServePage(Protocol):
    """Starts a model and a service, and opens the page."""

    def __call__(self, *replies: Handler, handler: Handler | None = None) -> ThreadedServer: ...


class ShownAnswer(msgspec.Struct):
    """An answer as the page shows it."""

    kind: str
    state: str
    text: str
    thoughts: str
    open: bool
    least: str | None
    tokens: list[list[str]]


class Shown(msgspec.Struct):
    """The page at one moment."""

    status: str
    problem: str | None
    detail: str | None
    again: str | None
    ready: bool
    focus: str
    running: bool
    answers: list[ShownAnswer]

    @property
    def texts(self) -> list[str]:
        """The text of each answer."""
        return [answer.text for answer in self.answers]

    @property
    def states(self) -> list[str]:
        """The state of each answer."""
        return [answer.state for answer in self.answers]


class ChatPage:
    """The page in a browser.

    Args:
        driver: A driver of Selenium.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.url = ""
        self._first = driver.current_window_handle

    def open(self, url: str = "") -> str:
        """Open the page in a new tab, and return the tab."""
        self.url = url or self.url
        self.driver.switch_to.new_window("tab")
        self.driver.get_log("browser")  # drops what other pages wrote
        self.driver.get(self.url)
        return str(self.driver.current_window_handle)

    def leave(self) -> None:
        """Visit another page."""
        self.driver.get("about:blank")

    def close(self) -> None:
        """Close all tabs that were opened."""
        for handle in self.driver.window_handles:
            if handle != self._first:
                self.driver.switch_to.window(handle)
                self.driver.close()
        self.driver.switch_to.window(self._first)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """Return the first element of a selector."""
        return self.driver.find_element("css selector", selector)

    def ask(self, prompt: str, n: int = 1) -> None:
        """Ask with the mouse."""
        self.run("document.querySelector(`[name=n][value='${arguments[0]}']`).click()", str(n))
        self.find("#prompt").clear()
        self.find("#prompt").send_keys(prompt)
        self.find("#ask").click()

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def read(self) -> Shown:
        """Return what the page shows."""
        return msgspec.convert(self.run(_READ), Shown)

    def wait(self, condition: Callable[[Shown], bool]) -> Shown:
        """Wait until the page shows what a condition asks for.

        Raises:
            TimeoutError: If it does not.
        """
        end = time.monotonic() + SECONDS
        while not condition(shown := self.read()):
            if time.monotonic() > end:
                raise TimeoutError(f"the page still shows {shown}")
            time.sleep(0.02)
        return shown

    def wait_end(self) -> Shown:
        """Wait until the answers have ended, in any way."""
        return self.wait(lambda shown: shown.status != "" and not shown.running)

    def complaints(self) -> list[str]:
        """Return the warnings and errors in the browser's console, among them everything that the policy forbids."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def look(
        self, size: tuple[int, int, float], scheme: str = "light", motion: str = "no-preference"
    ) -> None:
        """Set the size of the window, the pixels for each of its units, and what the visitor prefers."""
        width, height, scale = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
