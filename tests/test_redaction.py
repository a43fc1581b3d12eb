"""Keys that servers echo are taken out of whatever they said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gradient_async import APIError, BadRequestError, Headers
from gradient_async.errors import ResponseInfo
from gradient_async.secrets import Redactor, Secret, check_headers, hide_headers, secrets_in

KEY = "sk-do-0123456789/abcdefKEY"
SHOWN = "sk-…KEY"


def redactor(*keys: str) -> Redactor:
    return Redactor(tuple(Secret(key) for key in keys or (KEY,)))


def test_a_key_is_shown_by_its_ends() -> None:
    assert f"bad key {SHOWN}, {SHOWN}!" == redactor().text(f"bad key {KEY}, {KEY}!")
    assert f'"{SHOWN}"'.encode() == redactor().data(json.dumps(KEY).replace("/", "\\/").encode())
    assert redactor().data(b"\xff" + KEY.encode() + b"\xfe") == b"\xff" + SHOWN.encode() + b"\xfe"
    assert redactor().text("nothing of the kind") == "nothing of the kind"


def test_short_keys_show_nothing_and_shorter_ones_are_no_secret() -> None:
    assert redactor("abcdefgh").text("key abcdefgh") == "key [key]"
    assert redactor("e").text("every word") == "every word"


def test_a_key_that_was_cut_is_found_by_its_beginning() -> None:
    """A message is cut at so many characters, perhaps inside the key."""
    for length in range(13, len(KEY)):
        assert f"…key: {SHOWN}…" == redactor().text(f"…key: {KEY[:length]}…")
    assert redactor().text(f"key: {KEY[:12]}") == f"key: {KEY[:12]}"


def test_a_key_with_spaces_is_taken_out_as_a_whole() -> None:
    """Neither a single word of it stays, nor what is left of it after a cut."""
    key = "First second third fourth"
    assert redactor(key).text(f"Bearer {key}.") == "Bearer Fir…rth."
    assert redactor(key).text(f"key: {key[:14]}") == "key: Fir…rth"
    assert redactor(key).data(json.dumps([key]).encode()) == '["Fir…rth"]'.encode()


def test_a_key_inside_another_does_not_give_the_other_away() -> None:
    outer = KEY + "-and-more-of-it-XYZ"
    assert redactor(KEY, outer).text(f"{outer} {KEY}") == f"sk-…XYZ {SHOWN}"


def test_every_part_of_an_error_is_cleaned() -> None:
    info = ResponseInfo(
        status_code=400, headers=Headers([("x-request-id", KEY), ("a", "b")]), content=KEY.encode()
    )
    body: Any = {"error": {KEY: [KEY, 1, None, {"message": f"no {KEY}"}]}}
    error = BadRequestError(f"said {KEY}", response=info, body=body, code=KEY, type="t", request_id=KEY)
    redactor().clean(error)
    assert {SHOWN: [SHOWN, 1, None, {"message": f"no {SHOWN}"}]} == error.body["error"]
    assert (SHOWN, "t", SHOWN, None) == (error.code, error.type, error.request_id, error.param)
    assert (SHOWN, "b") == (error.headers["x-request-id"], error.headers["a"])
    assert error.response.content == SHOWN.encode()
    assert f"said {SHOWN}" == str(error) == error.args[0]
    assert KEY not in repr(error)


def test_without_keys_nothing_is_touched() -> None:
    info = ResponseInfo(status_code=400, headers=Headers())
    error = BadRequestError("said", response=info)
    Redactor(()).clean(error)
    assert error.response is info


@pytest.mark.parametrize(
    ("headers", "keys"),
    [
        ({"Authorization": f"Bearer {KEY}"}, [KEY]),
        ({"X-API-Key": KEY, "Cookie": "", "Accept": "Bearer x"}, [KEY]),
        ({"authorization": "Bearer naïve"}, ["naïve"]),
        ({"Accept": KEY}, []),
        ({"Authorization": "bearer  My API Key "}, ["My API Key"]),
        ({"Authorization": "My API Key"}, ["My API Key", "API Key"]),
        ({"X-API-Key": "My  API Key"}, ["My  API Key", "API Key"]),
        ({"Cookie": "a=b=c; session=0123; bare"}, ["b=c", "0123", "bare"]),
        ({"Authorization": "Bearer"}, ["Bearer"]),
    ],
)
def test_keys_in_headers_of_the_callers_own(headers: dict[str, str], keys: list[str]) -> None:
    checked = check_headers(headers)
    assert keys == [secret.reveal() for secret in secrets_in(checked)]
    assert not any(key in repr(checked) for key in keys)
    assert headers == checked


def test_headers_with_keys_are_hidden_from_tracebacks() -> None:
    hidden = hide_headers({"Authorization": f"Bearer {KEY}", "Accept": "a", "X-Api-Key": None})
    assert KEY not in repr(hidden)
    assert {"Authorization": f"Bearer {KEY}", "Accept": "a", "X-Api-Key": None} == hidden
    assert {} == hide_headers(None)


def test_bytes_without_keys_stay_the_same_object() -> None:
    data = b"nothing of the kind"
    assert data is redactor().data(data)


def test_an_error_without_a_reply_is_cleaned() -> None:
    error = APIError(f"said {KEY}")
    redactor().clean(error)
    assert (f"said {SHOWN}", None) == (error.message, error.response)
