"""Starts and ends a headless Chromium."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

# What a browser does by itself would fail, slowly, where there is no network.
ARGUMENTS = [
    "--headless",
    "--no-sandbox",  # which needs rights that a container's root has not
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--hide-scrollbars",
]
SECONDS = 60  # for one answer of the browser, on a machine of any speed: a browser that hangs fails the test


@contextmanager
def drive(profile: Path) -> Generator[Any]:
    """Start a browser, and yield its driver of Selenium; skip the test where there is none.

    Driver and browser are in a process group of their own, which is ended as a whole, however the tests end.

    Args:
        profile: A new folder for what the browser keeps.
    """
    webdriver: Any = pytest.importorskip(
        "selenium.webdriver", reason="Selenium is not installed: pip install '.[browser]'"
    )
    failures: Any = importlib.import_module("selenium.common.exceptions")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in [*ARGUMENTS, f"--user-data-dir={profile}"]:
        options.add_argument(argument)
    # Selenium downloads a driver unless it knows the path of one.
    service = webdriver.ChromeService(executable_path=driver, popen_kw={"start_new_session": True})
    with ExitStack() as stack:
        stack.callback(_end, service)
        with _directly():
            try:
                driven = webdriver.Chrome(options=options, service=service)
            except failures.WebDriverException as error:
                pytest.skip(f"Chromium does not start here: {str(error).splitlines()[0]}")
        stack.callback(_quit, driven)
        driven.set_page_load_timeout(SECONDS)
        driven.set_script_timeout(SECONDS)
        yield driven


@contextmanager
def _directly() -> Generator[None]:
    """Let Selenium talk to the driver without a proxy, and with a limit of time; it reads both when it starts."""
    limit = socket.getdefaulttimeout()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "localhost,127.0.0.1")
        socket.setdefaulttimeout(SECONDS)
        try:
            yield
        finally:
            socket.setdefaulttimeout(limit)


def _quit(driven: Any) -> None:
    with _directly():
        driven.quit()


def _end(service: Any) -> None:
    process = getattr(service, "process", None)
    if process is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(SECONDS)
