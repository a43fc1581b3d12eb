"""Keys that servers echo are taken out of whatever they said."""

from __future__ import annotations

import base64
import html
import json
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from work import expect_linear

from gradient_async import APIError, BadRequestError, ChatCompletion, Headers, StreamTruncatedError
from gradient_async.errors import ResponseInfo
from gradient_async.secrets import Redactor, Secret, check_headers, hide_headers, redacted_headers, secrets_in

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
    for length in range(8, len(KEY)):
        assert f"…key: {SHOWN}…" == redactor().text(f"…key: {KEY[:length]}…")
    assert redactor().text(f"key: {KEY[:7]}") == f"key: {KEY[:7]}"


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
    named = f"x-{KEY.encode().hex()}"  # names of headers are in lower case
    info = ResponseInfo(
        status_code=400,
        headers=Headers([("x-request-id", KEY), ("a", "b"), (named, "c")]),
        content=KEY.encode(),
    )
    body: Any = {"error": {KEY: [KEY, 1, None, {"message": f"no {KEY}"}]}}
    error = BadRequestError(f"said {KEY}", response=info, body=body, code=KEY, type="t", request_id=KEY)
    redactor().clean(error)
    assert {SHOWN: [SHOWN, 1, None, {"message": f"no {SHOWN}"}]} == error.body["error"]
    assert (SHOWN, "t", SHOWN, None) == (error.code, error.type, error.request_id, error.param)
    assert [("x-request-id", SHOWN), ("a", "b"), (f"x-{SHOWN.lower()}", "c")] == list(error.headers.items())
    assert error.response.content == SHOWN.encode()
    assert f"said {SHOWN}" == str(error) == error.args[0]
    assert KEY not in repr(error)


def test_the_id_of_a_partial_completion_is_cleaned() -> None:
    """The session takes the id from the headers. The text is the model's, and has been delivered."""
    partial = ChatCompletion(id=KEY, request_id=f"r-{KEY}")
    redactor().clean(StreamTruncatedError("short", partial=partial))
    assert (KEY, f"r-{SHOWN}") == (partial.id, partial.request_id)


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


# As servers write what they were sent

SPECIAL = "sk-do+A1b2/C3d4=\"<&>\\ 'xyzKEY"
WRITTEN: dict[str, Callable[[str], str]] = {
    "URL": lambda key: urllib.parse.quote(key, safe=""),
    "query of a URL": urllib.parse.quote_plus,
    "URL, every character": lambda key: "".join(f"%{ord(each):02x}" for each in key),
    "URL in a URL": lambda key: urllib.parse.quote(urllib.parse.quote(key, safe=""), safe=""),
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON with slashes escaped": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "JSON, every character": lambda key: "".join(f"\\u{ord(each):04X}" for each in key),
    "JSON in JSON": lambda key: json.dumps(json.dumps(key)),
    "JSON in JSON, every character": lambda key: json.dumps("".join(f"\\u{ord(each):04x}" for each in key)),
    "JSON in a URL": lambda key: urllib.parse.quote(json.dumps(key)),
    "JavaScript": lambda key: "".join(f"\\x{ord(each):02x}" for each in key),
    "HTML": html.escape,
    "HTML, decimal": lambda key: "".join(f"&#{ord(each)};" for each in key),
    "HTML, hexadecimal": lambda key: "".join(f"&#x{ord(each):04X};" for each in key),
    "hexadecimal": lambda key: key.encode().hex(),
    "HEXADECIMAL": lambda key: key.encode().hex().upper(),
    "Hexadecimal": lambda key: "".join(f"{each:02X}"[0] + f"{each:02x}"[1] for each in key.encode()),
    "lower case, as in the name of a host": str.lower,
    "capitals": str.upper,
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of URLs": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "base64 in a URL": lambda key: urllib.parse.quote(base64.b64encode(key.encode()).decode(), safe=""),
    "base64 in JSON": lambda key: base64.b64encode(key.encode()).decode().replace("/", "\\/"),
}


@pytest.mark.parametrize("key", [KEY, SPECIAL, "First second third fourth", "abcd/fgh"])
@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_a_key_is_found_however_it_is_written(write: Callable[[str], str], key: str) -> None:
    """Alone, repeated, and as bytes; also a part of what was written, since a message may be cut anywhere."""
    written = write(key)
    known = redactor(key)
    shown = f"{key[:3]}…{key[-3:]}" if len(key) >= 12 else "[key]"
    for text in (f"<{written}>", f"{written} {written}"):
        found = known.text(text)
        assert shown in found
        assert known.data(text.encode()) == found.encode()
        assert not any(written[at : at + 12] in found for at in range(len(written) - 11))
        assert found == known.text(found)
    longest = 8 * 10 + 8  # eight characters, each of ten, and the cut one
    for length in range(longest, len(written)):
        assert shown in known.text(f"{written[:length]}…")


@pytest.mark.parametrize("before", ["", ":", "u:", "user:", "Bearer "])
@pytest.mark.parametrize("behind", ["", "\n", ", and more"])
def test_a_key_is_found_inside_longer_base64(before: str, behind: str) -> None:
    """As in ``Authorization: Basic``: base64 looks different behind one or two other bytes."""
    encoded = base64.b64encode(f"{before}{KEY}{behind}".encode()).decode()
    found = redactor().text(f"got {encoded}")
    assert SHOWN in found
    assert not any(
        encoded[at : at + 8] in found
        for at in range(len(before) * 4 // 3 + 2, len(before + KEY) * 4 // 3 - 9)
    )


def as_it_is(character: str) -> str:
    """Write a character without any escape."""
    return character


SINGLY = [WRITTEN[name] for name in WRITTEN if "HTML," in name or ("every" in name and "JSON in" not in name)]


@given(st.lists(st.sampled_from([as_it_is, *SINGLY]), min_size=len(KEY), max_size=len(KEY)))
def test_each_character_may_be_written_in_its_own_way(ways: list[Callable[[str], str]]) -> None:
    text = "".join(write(each) for write, each in zip(ways, KEY, strict=True))
    assert f"({SHOWN})" == redactor().text(f"({text})")


@given(st.text("sk-do0\\%u&#x;/\"'+= é"))
def test_text_without_keys_is_unchanged(text: str) -> None:
    """Whatever escapes it has, and those that are none."""
    assert text is redactor().text(text)


@given(
    st.lists(st.sampled_from([KEY, KEY[:14], KEY[:8], KEY[:7], KEY[1:], KEY[13:], "sk-", " İ", "\\", "%41"]))
)
def test_no_beginning_of_a_key_stays(pieces: list[str]) -> None:
    """However keys, their parts and other text overlap."""
    found = redactor().text("".join(pieces))
    assert KEY[:8] not in found
    assert found == redactor().text(found)


def test_keys_that_repeat_themselves() -> None:
    """Their beginnings overlap with each other."""
    for key in ("ab" * 10 + "-the-secret-part", "a" * 30, "abcabcabcabcabcabcd"):
        found = redactor(key).text(f"x{key[:3]}{key}{key}{key[:-1]}y")
        assert "secret" not in found
        assert key[:8] not in found


@pytest.mark.parametrize(
    "piece",
    [KEY[:13], KEY[:14], KEY, KEY[:-1], "\\", "%41", "&amp;", "&", "\\u0073", "s", "sk-do-01234567sk-"],
    ids=[
        "half a key",
        "more",
        "keys",
        "all but one",
        "backslashes",
        "URL",
        "HTML",
        "ampersands",
        "JSON",
        "letters",
        "mixed",
    ],
)
def test_the_work_is_linear(piece: str) -> None:
    """Text comes from servers: 2 MiB of half a key once took minutes."""
    known = redactor(KEY, "a" * 40, SPECIAL)

    def work(size: int) -> Callable[[], object]:
        text = piece * (size // len(piece))
        return lambda: known.text(text)

    expect_linear(work, 1 << 14)


def test_a_redactor_shows_no_key() -> None:
    assert KEY not in repr(redactor())


def test_headers_of_a_request_are_shown_without_keys() -> None:
    """Headers whose name says that they hold one have no value; other values have no known key."""
    key = Secret(KEY)
    checked = check_headers(
        {
            "Accept": "application/json",
            "X-Team": f"search {KEY}",
            "Cookie": "a=b",
            "X-Goog-Api-Key": "unknown",
            "CF-Access-Client-Secret": "unknown",
            "Proxy-Authorization": "Basic dTpw",
            "X-Auth-Token": b"unknown",
        }
    )
    shown = redacted_headers(checked, key, Redactor([key]))
    assert {
        "authorization": "Bearer [key]",
        "accept": "application/json",
        "x-team": shown["x-team"],
        "cookie": "[key]",
        "x-goog-api-key": "[key]",
        "cf-access-client-secret": "[key]",
        "proxy-authorization": "Basic [key]",
        "x-auth-token": "[key]",
    } == dict(shown)
    assert KEY[3:-3] not in shown["x-team"]
    own = redacted_headers(check_headers({"Authorization": "Bearer theirs"}), None, Redactor())
    assert {"authorization": "Bearer [key]"} == dict(own)
    assert {} == dict(redacted_headers({}, None, Redactor()))
