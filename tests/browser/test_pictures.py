"""Pictures of the page, as the documentation shows them.

``pytest tests/browser/test_pictures.py --pictures docs/services`` makes them anew.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from chat_page import ChatPage, ServePage
from scripted_answers import Gate, deltas, usage, writes

from gradient_async.testing import HOLD, RESET, reply_json, reply_sse, reply_writes

QUESTION = "Why is the sky blue, and not violet? Two or three sentences."
THOUGHTS = (
    "They ask for the cause and for why it is not violet. Rayleigh scattering grows with the fourth power of the "
    "frequency, so violet should win. Three reasons against it: less violet in sunlight, ozone, and our eyes."
)
ANSWERS = """
Air scatters short waves far more than long ones, so blue light reaches you from every part of the sky. Violet is scattered \
even more, but the sun sends less of it, the upper air absorbs some, and our eyes are less sensitive to it.
Sunlight meets molecules much smaller than its waves, and they deflect its blue end about four times as much as its red \
end. What is left of the violet hardly excites our cones, so the mixture looks pale blue.
Because of Rayleigh scattering: its strength grows with the fourth power of the frequency. Violet would win, were it not \
for the spectrum of the sun and for the way in which our eyes add up colours.
""".strip().splitlines()
UNSURE = {
    "far": 0.62, "reaches": 0.44, "absorbs": 0.71, "sensitive": 0.68, "deflect": 0.21, "four": 0.48, "cones": 0.73,
    "pale": 0.34, "Because": 0.52, "win": 0.41, "spectrum": 0.66, "add": 0.19, "every": 0.7, "hardly": 0.55,
}  # fmt: skip
WIDE = (1180, 820, 1.0)
PHONE = (390, 844, 2.0)


class Camera:
    """Takes pictures of the page.

    Args:
        page: The page.
        folder: Folder to write the pictures to.
    """

    def __init__(self, page: ChatPage, folder: Path) -> None:
        self.page = page
        self.folder = folder

    def set(self, size: tuple[int, int, float], scheme: str) -> None:
        """Choose the size of the window, and light or dark."""
        self.page.look(size, scheme)

    def take(self, name: str, *, whole: bool = True) -> Path:
        """Take a picture of the whole page, or of what fits the window."""
        self.page.run("window.scrollTo(0, 0); document.activeElement.blur()")
        wanted: dict[str, Any] = {"format": "webp", "quality": 82}
        if whole:
            width, height = self.page.run(
                "const { width, height } = document.body.getBoundingClientRect(); return [width, height]"
            )
            wanted["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            wanted["captureBeyondViewport"] = True
        shot = self.page.driver.execute_cdp_cmd("Page.captureScreenshot", wanted)
        path = self.folder / f"{name}.webp"
        path.write_bytes(base64.b64decode(shot["data"]))
        return path


@pytest.fixture
def camera(page: ChatPage, request: pytest.FixtureRequest, tmp_path: Path) -> Camera:
    folder = Path(request.config.getoption("--pictures", default=None) or tmp_path)
    folder.mkdir(exist_ok=True)
    return Camera(page, folder)


def test_pictures_of_whole_answers(serve_page: ServePage, page: ChatPage, camera: Camera) -> None:
    serve_page(reply_sse(*deltas(*ANSWERS, thoughts=THOUGHTS, unsure=UNSURE), usage(214)))
    page.ask(QUESTION, 3)
    page.wait_end()
    page.find("summary").click()
    for name, size, scheme in [
        ("wide-light", WIDE, "light"),
        ("wide-dark", WIDE, "dark"),
        ("phone-light", PHONE, "light"),
        ("phone-dark", PHONE, "dark"),
    ]:
        camera.set(size, scheme)
        assert 10_000 < camera.take(name, whole=size is WIDE).stat().st_size < 150_000


def test_a_picture_of_answers_under_way(serve_page: ServePage, page: ChatPage, camera: Camera) -> None:
    begun = [" ".join(answer.split()[:14]) for answer in ANSWERS]
    serve_page(
        reply_writes([*writes(deltas(*begun, thoughts=THOUGHTS, unsure=UNSURE, finish_reason=None)), HOLD])
    )
    camera.set(WIDE, "light")
    page.ask(QUESTION, 3)
    page.wait(lambda shown: shown.texts[2].endswith(begun[2]))
    assert 10_000 < camera.take("writing").stat().st_size < 150_000


def test_a_picture_of_cut_answers(serve_page: ServePage, page: ChatPage, camera: Camera) -> None:
    begun = [ANSWERS[0], *(" ".join(answer.split()[:14]) for answer in ANSWERS[1:])]
    chunks = [*deltas(begun[0], unsure=UNSURE), *deltas("", *begun[1:], unsure=UNSURE, finish_reason=None)]
    gate = Gate()
    serve_page(reply_writes([*writes(iter(chunks)), gate, RESET]))
    camera.set(WIDE, "light")
    page.ask(QUESTION, 3)
    page.wait(lambda shown: shown.texts[2].endswith(begun[2]))
    gate.open()
    assert ["whole", "cut off", "cut off"] == page.wait_end().states
    assert 10_000 < camera.take("cut").stat().st_size < 150_000


def test_a_picture_of_an_error(serve_page: ServePage, page: ChatPage, camera: Camera) -> None:
    serve_page(reply_json({"message": "slow down"}, 429, {"retry-after": "30"}))
    camera.set(PHONE, "light")
    page.ask(QUESTION, 2)
    page.wait_end()
    assert 5_000 < camera.take("error", whole=False).stat().st_size < 150_000
