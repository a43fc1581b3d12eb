"""Settings: time limits as users write them, the environment, URLs and keys that can't leak or mislead."""

from __future__ import annotations

import copy
import traceback
from types import SimpleNamespace
from typing import Any

import pytest

from gradient_async.config import Limits, Retry, Timeout, from_env, resolve
from gradient_async.errors import ConfigurationError
from gradient_async.secrets import Secret, check_headers
from gradient_async.types import NOT_GIVEN

INFINITE, NAN = float("inf"), float("nan")


def make(kind: type[Any], **options: Any) -> Any:
    """Make settings of values that a type checker would refuse."""
    return kind(**options)


class Odd(str):
    """Text that shows itself as something else, as members of an Enum do."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


def limits(
    connect: float | None, first_token: float | None, idle: float | None, response: float | None
) -> Timeout:
    return Timeout(connect=connect, first_token=first_token, idle=idle, response=response, total=None)


class TestTimeout:
    def test_defaults(self) -> None:
        assert (5, 180, 120, 600, None) == (
            Timeout().connect,
            Timeout().first_token,
            Timeout().idle,
            Timeout().response,
            Timeout().total,
        )

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (Timeout(idle=3), limits(5, 180, 3, 600)),
            (None, limits(None, None, None, None)),
            (30, limits(5, 30, 30, 30)),
            (2.5, limits(2.5, 2.5, 2.5, 2.5)),
            (SimpleNamespace(connect=1, read=2), limits(1, 2, 2, 2)),
            (
                SimpleNamespace(connect=None, read=None, write=1, pool=2),
                limits(None, None, None, None),
            ),
        ],
    )
    def test_of(self, value: Any, expected: Timeout) -> None:
        """Seconds, None, an object with connect and read, or a `Timeout` itself."""
        assert expected == Timeout.of(value)

    @pytest.mark.parametrize(
        "value",
        [
            "5",
            True,
            False,
            [],
            SimpleNamespace(connect=1),
            SimpleNamespace(read=1),
            0,
            -1,
            NAN,
            INFINITE,
            object(),
        ],
    )
    def test_of_what_is_none(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"timeout"):
            Timeout.of(value)

    @pytest.mark.parametrize("name", ["connect", "first_token", "idle", "response", "total"])
    @pytest.mark.parametrize("value", [0, -1, NAN, INFINITE, "5"])
    def test_limits_are_positive_and_finite(self, name: str, value: Any) -> None:
        with pytest.raises(ConfigurationError, match=rf"timeout: {name}="):
            Timeout(**{name: value})
        assert None is getattr(Timeout(**{name: None}), name)

    def test_it_can_be_compared_and_kept(self) -> None:
        assert {Timeout(): 1}[Timeout()] == 1
        with pytest.raises(AttributeError):
            Timeout().idle = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # the mistake


class TestRetryAndLimits:
    def test_retry_defaults(self) -> None:
        assert (60, 8, False) == (Retry().budget, Retry().max_backoff, Retry().ambiguous)

    @pytest.mark.parametrize("name", ["budget", "max_backoff"])
    def test_retry_bounds(self, name: str) -> None:
        assert 0 == getattr(make(Retry, **{name: 0}), name)
        for value in (-1, NAN, INFINITE):
            with pytest.raises(ConfigurationError, match=rf"retry: {name}="):
                make(Retry, **{name: value})

    def test_limits_defaults(self) -> None:
        mib = 1 << 20
        assert {
            "event_bytes": 16 * mib,
            "line_bytes": 16 * mib + 1024,
            "body_bytes": 64 * mib,
            "error_body_bytes": 64 << 10,
            "error_body_seconds": 5,
            "completion_bytes": 64 * mib,
            "buffered_bytes": 16 * mib,
            "choices": 128,
            "tool_calls": 1024,
            "drain_seconds": 0.1,
            "drain_bytes": 64 << 10,
        }.items() <= {name: getattr(Limits(), name) for name in Limits.__struct_fields__}.items()

    @pytest.mark.parametrize("name", Limits.__struct_fields__)
    def test_limits_are_positive(self, name: str) -> None:
        """Only sizes may be unlimited: a reply's choices, and what we wait for, never."""
        assert 1 == getattr(make(Limits, **{name: 1}), name)
        for value in (0, -1, NAN, "5"):
            with pytest.raises(ConfigurationError, match=rf"limits: {name}="):
                make(Limits, **{name: value})
        if name in {"event_bytes", "line_bytes", "body_bytes", "completion_bytes", "values"}:
            assert None is getattr(make(Limits, **{name: None}), name)
        else:
            with pytest.raises(ConfigurationError, match=rf"limits: {name}=None is not a positive number$"):
                make(Limits, **{name: None})


VARIABLES = {
    "model_access_key": [
        "GRADIENT_MODEL_ACCESS_KEY",
        "DIGITALOCEAN_INFERENCE_KEY",
        "MODEL_ACCESS_KEY",
        "GRADIENTAI_INFERENCE_KEY",
        "GRADIENTAI_API_KEY",
        "DO_MODEL_ACCESS_KEY",
        "DIGITAL_OCEAN_MODEL_ACCESS_KEY",
    ],
    "agent_access_key": ["GRADIENT_AGENT_ACCESS_KEY"],
    "access_token": ["DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_TOKEN", "DIGITALOCEAN_API_KEY"],
    "agent_endpoint": ["GRADIENT_AGENT_ENDPOINT"],
    "inference_endpoint": ["GRADIENT_INFERENCE_ENDPOINT"],
    "base_url": ["GRADIENT_BASE_URL"],
}


class TestEnvironment:
    @pytest.mark.parametrize(("option", "names"), VARIABLES.items(), ids=VARIABLES)
    def test_every_variable_in_its_order(self, option: str, names: list[str]) -> None:
        """Each counts alone, and the earlier name before the later."""
        for at, name in enumerate(names):
            assert {option: "v"} == from_env({name: " v\n"})
            assert {option: f"v{at}"} == from_env(
                {other: f"v{number}" for number, other in enumerate(names) if number >= at}
            )

    @pytest.mark.parametrize("empty", ["", " ", "\n\t"])
    def test_empty_counts_as_unset(self, empty: str) -> None:
        assert {} == from_env({name: empty for names in VARIABLES.values() for name in names})
        assert {"model_access_key": "k"} == from_env(
            {"GRADIENT_MODEL_ACCESS_KEY": empty, "MODEL_ACCESS_KEY": "k"}
        )

    def test_others_do_not_count(self) -> None:
        assert {} == from_env({"OPENAI_API_KEY": "x", "gradient_base_url": "y", "GRADIENT_LOG": "debug"})

    def test_argument_then_environment_then_default(self) -> None:
        env = {"GRADIENT_MODEL_ACCESS_KEY": "env", "GRADIENT_INFERENCE_ENDPOINT": "https://env.test"}
        assert ("https://inference.do-ai.run/v1", None) == picked({}, {})
        assert ("https://env.test/v1", "env") == picked({}, env)
        given: dict[str, str | None] = {"model_access_key": "arg", "inference_endpoint": "https://arg.test"}
        assert ("https://arg.test/v1", "arg") == picked(given, env)
        assert ("https://env.test/v1", "env") == picked(
            {"model_access_key": "", "inference_endpoint": None}, env
        )


def picked(options: dict[str, str | None], environ: dict[str, str]) -> tuple[str, str | None]:
    found = resolve(options, environ)
    return found.inference_url, None if found.model_key is None else found.model_key.reveal()


class TestKeys:
    @pytest.mark.parametrize(
        ("options", "environ", "expected"),
        [
            ({}, {}, None),
            ({"api_key": "a"}, {}, "a"),
            ({"api_key": "a", "model_access_key": "m"}, {}, "m"),
            ({"api_key": "a"}, {"GRADIENT_MODEL_ACCESS_KEY": "e"}, "a"),
            ({"access_token": "t"}, {}, "t"),
            ({"access_token": "t"}, {"MODEL_ACCESS_KEY": "e"}, "e"),
            ({"access_token": "t", "api_key": "a"}, {}, "a"),
            ({}, {"DIGITALOCEAN_TOKEN": "t"}, "t"),
            ({}, {"DIGITALOCEAN_TOKEN": "t", "GRADIENTAI_API_KEY": "g"}, "g"),
            ({"agent_access_key": "x"}, {}, None),
            ({"model_access_key": "  key\n"}, {}, "key"),
        ],
    )
    def test_of_inference(
        self, options: dict[str, str | None], environ: dict[str, str], expected: str | None
    ) -> None:
        """A key made for inference before a token that opens it too."""
        assert expected == picked(options, environ)[1]

    def test_of_agents(self) -> None:
        found = resolve({"agent_access_key": "a"}, {"GRADIENT_AGENT_ACCESS_KEY": "b"}).agent_key
        assert found == Secret("a")
        assert Secret("b") == resolve({}, {"GRADIENT_AGENT_ACCESS_KEY": "b"}).agent_key
        assert None is resolve({"access_token": "t", "model_access_key": "m"}, {}).agent_key

    def test_a_token(self) -> None:
        """It is known beside a key for inference; a variable that holds no key is passed over where it is not used."""
        options = {"model_access_key": "m"}
        assert (
            Secret("t") == resolve(options | {"access_token": "t"}, {"DIGITALOCEAN_TOKEN": "u"}).access_token
        )
        assert Secret("u") == resolve(options, {"DIGITALOCEAN_TOKEN": "u"}).access_token
        assert None is resolve(options, {"DIGITALOCEAN_TOKEN": "no\x01key"}).access_token
        assert None is resolve(options, {}).access_token


AGENT = "https://abc.agents.do-ai.run/api/v1"


class TestURLs:
    @pytest.mark.parametrize(
        ("options", "environ", "inference", "agent"),
        [
            ({"inference_endpoint": "https://x.test"}, {}, "https://x.test/v1", None),
            ({"inference_endpoint": "https://x.test/"}, {}, "https://x.test/v1", None),
            ({"inference_endpoint": " x.test "}, {}, "https://x.test/v1", None),
            ({"inference_endpoint": "HTTPS://x.test:8443/a"}, {}, "HTTPS://x.test:8443/a/v1", None),
            ({"agent_endpoint": "abc.agents.do-ai.run"}, {}, "https://inference.do-ai.run/v1", AGENT),
            (
                {"agent_endpoint": "https://abc.agents.do-ai.run/"},
                {},
                "https://inference.do-ai.run/v1",
                AGENT,
            ),
            (
                {},
                {"GRADIENT_AGENT_ENDPOINT": "abc.agents.do-ai.run"},
                "https://inference.do-ai.run/v1",
                AGENT,
            ),
            ({"base_url": "https://b.test/v2/"}, {}, "https://b.test/v2", "https://b.test/v2"),
            ({}, {"GRADIENT_BASE_URL": "https://b.test"}, "https://b.test", "https://b.test"),
            (
                {"inference_endpoint": "https://x.test"},
                {"GRADIENT_BASE_URL": "https://b.test"},
                "https://x.test/v1",
                "https://b.test",
            ),
            (
                {"agent_endpoint": "abc.agents.do-ai.run"},
                {"GRADIENT_BASE_URL": "https://b.test"},
                "https://b.test",
                AGENT,
            ),
            (
                {
                    "base_url": "https://b.test",
                    "inference_endpoint": "https://x.test",
                    "agent_endpoint": "y.test",
                },
                {},
                "https://b.test",
                "https://b.test",
            ),
            (
                {},
                {"GRADIENT_BASE_URL": "https://b.test", "GRADIENT_INFERENCE_ENDPOINT": "https://x.test"},
                "https://b.test",
                "https://b.test",
            ),
            ({"inference_endpoint": "http://localhost:8080"}, {}, "http://localhost:8080/v1", None),
        ],
    )
    def test_of_endpoint_and_base(
        self, options: dict[str, str | None], environ: dict[str, str], inference: str, agent: str | None
    ) -> None:
        """A base URL replaces endpoint and version; an endpoint given beats a base URL of the environment."""
        found = resolve(options, environ)
        assert (inference, agent) == (found.inference_url, found.agent_url)

    @pytest.mark.parametrize(
        "host",
        ["localhost", "127.0.0.1:8000", "[::1]:8000", "10.1.2.3", "192.168.0.4", "172.16.0.1", "169.254.1.1",
         "[fd00::1]", "gateway", "a.internal", "printer.local", "x.localhost", "LOCALHOST", "localhost.", "[::]",
         "100.100.1.2", "[fe80::1%eth0]", "[::ffff:10.0.0.1]", "nas.lan", "llm.team.svc", "box.home.arpa", "gpu.tail.ts.net"],
    )  # fmt: skip
    def test_plain_http_to_private_hosts(self, host: str) -> None:
        assert f"http://{host}/v1" == resolve({"inference_endpoint": f"http://{host}"}, {}).inference_url

    @pytest.mark.parametrize(
        "host",
        [
            "example.com",
            "8.8.8.8",
            "[2001:4860:4860::8888]",
            "internal.example.com",
            "example\u3002com",
            "example\uff0ecom",
            "example\uff61com",
            "evillocal.com",
            "ts.net.example",
            "192.0.2.1",
            "240.0.0.1",
            "100.128.0.1",
            "[2002:a00:1::1]",
            "[2001:0:a00:1::1]",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::a00:1]",
        ],
    )
    @pytest.mark.parametrize("option", ["inference_endpoint", "agent_endpoint", "base_url"])
    def test_plain_http_to_others_is_refused(self, host: str, option: str) -> None:
        """The key would be read on the way; it may be allowed by name."""
        url = f"http://{host}"
        for options, environ in (({option: url}, {}), ({}, {f"GRADIENT_{option.upper()}": url})):
            with pytest.raises(ConfigurationError, match=rf"{option} can't be used: plain http"):
                resolve(options, environ)
            found = resolve(options, environ, allow_insecure_http=True)
            assert url in f"{found.inference_url} {found.agent_url}"

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("https://", "no host"),
            ("https:///v1", "no host"),
            ("https://x.test:port", "no host"),
            ("https://x.test:", "no host"),
            ("http:/localhost", "no host"),
            ("https:/v1/x.test", "no host"),
            ("https://x.test:99999", "no host"),
            ("https://[::1", "no host"),
            ("ftp://x.test", "scheme is 'ftp'"),
            ("file:///etc/passwd", "no host"),
            ("ws://x.test", "scheme is 'ws'"),
            ("https://user@x.test", "user name or password"),
            ("https://user:SECRET@x.test", "user name or password"),
            ("https://:SECRET@x.test", "user name or password"),
            ("user:SECRET@x.test", "user name or password"),
            ("https://x.test?key=SECRET", "query or a fragment"),
            ("https://x.test/#SECRET", "query or a fragment"),
            ("https://x.test/a b", "white space"),
            ("https://x.test/\x7f", "white space"),
            ("https://x.test\\evil.test", "white space"),
            ("https://x.test/\ud800", "white space"),
            ("https://x.test/v1?", "query or a fragment"),
            ("https://x.test/v1#", "query or a fragment"),
            ("http://evil%2ecom", "neither an IP address nor a name"),
            ("https://a..test", "neither an IP address nor a name"),
            ("https://.", "neither an IP address nor a name"),
            (f"https://{'a' * 64}.test", "neither an IP address nor a name"),
            ("https://\u00e9..test", "neither an IP address nor a name"),
            ("https://a,b.test", "neither an IP address nor a name"),
            ("https://x\ufe0f.test", "neither an IP address nor a name"),
            ("http://134744072", "neither an IP address nor a name"),
            ("http://0x8.0x8.2056", "neither an IP address nor a name"),
            ("https://1.2.3.4.5", "neither an IP address nor a name"),
            ("https://[::1]x", "neither an IP address nor a name|no host"),
            ("https://[v1.x]", "neither an IP address nor a name|no host"),
        ],
    )
    def test_what_is_no_base(self, url: str, problem: str) -> None:
        """Refused before anything is sent, without showing what may be a secret."""
        with pytest.raises(ConfigurationError, match=problem) as raised:
            resolve({"base_url": url}, {})
        assert "SECRET" not in str(raised.value)
        assert isinstance(raised.value, ValueError)


KEY = "sk-VERY-SECRET-42"


class TestSecret:
    def test_it_does_not_show_itself(self) -> None:
        """Not in repr, str, format, vars, or where it is part of something."""
        found = resolve({"model_access_key": KEY, "agent_access_key": KEY}, {})
        for shown in (
            repr(found),
            str(found),
            f"{found.model_key}",
            repr([found.model_key]),
            repr(vars(Secret).keys()),
        ):
            assert KEY not in shown
        assert "Secret(…)" == repr(found.model_key)
        assert not hasattr(found.model_key, "__dict__")
        assert KEY == (found.model_key and found.model_key.reveal())

    @pytest.mark.parametrize(
        "key", ["a\nb", "a  b", "a\tb", "k\x00", "schlüssel", "a\x7f", "\u2028x", " ", ""]
    )
    def test_what_is_no_key(self, key: str) -> None:
        """Refused by name; the value is nowhere, in the message or in the traceback."""
        with pytest.raises(
            ConfigurationError, match="model_access_key may contain only visible ASCII and single spaces"
        ) as raised:
            Secret(f"{KEY}{key}x" if key.strip() else key, "model_access_key")
        text = "".join(traceback.format_exception(raised.value))
        assert KEY not in text

    def test_keys_that_other_libraries_hide(self) -> None:
        """As pydantic's SecretStr; a subclass of str counts as a str, whatever it shows."""

        class Hidden:
            def get_secret_value(self) -> Any:
                return f" {KEY} "

        for key in (Hidden(), Odd(KEY), Secret(KEY)):
            assert KEY == Secret(key).reveal()
            assert str is type(Secret(key).reveal())

    @pytest.mark.parametrize("key", [KEY.encode(), 5, None, [KEY], object()])
    def test_keys_of_other_types(self, key: Any) -> None:
        """Refused by name; the value is nowhere."""

        class Hidden:
            def get_secret_value(self) -> Any:
                return key

        for value in (key, Hidden()):
            with pytest.raises(TypeError, match=r"^access_token: expected a str, not ") as raised:
                Secret(value, "access_token")
            shown = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
            assert KEY not in f"{raised.value}{shown.stack[-1].locals}"

    def test_white_space_around_is_dropped(self) -> None:
        assert KEY == Secret(f"\t {KEY}\r\n").reveal()

    def test_spaces_inside_are_part_of_it(self) -> None:
        assert "My API Key" == Secret(" My API Key ").reveal()

    def test_it_is_compared_by_value(self) -> None:
        assert Secret(KEY) == Secret(f" {KEY}")
        assert Secret(KEY) != Secret("other")
        assert Secret(KEY) != KEY
        assert 1 == len({Secret(KEY), Secret(KEY)})

    def test_it_can_be_copied(self) -> None:
        assert Secret(KEY) == copy.copy(Secret(KEY)) == copy.deepcopy(Secret(KEY))

    @pytest.mark.parametrize(
        "options",
        [
            {"model_access_key": f"{KEY}\n{KEY}"},
            {"model_access_key": KEY, "base_url": f"https://u:{KEY}@x.test"},
        ],
    )
    def test_no_traceback_shows_it(self, options: dict[str, str | None]) -> None:
        """Not even one that shows the locals of every frame of ours."""
        with pytest.raises(ConfigurationError) as raised:
            resolve(options, {"DIGITALOCEAN_TOKEN": KEY})
        shown = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
        assert None is shown.__context__ is shown.__cause__
        ours = [frame for frame in shown.stack if "test_config" not in frame.filename]
        assert ["resolve"] == [frame.name for frame in ours]
        assert KEY not in "".join(str(frame.locals) for frame in ours)


class TestHeaders:
    def test_values_are_text_and_may_be_dropped(self) -> None:
        checked = check_headers({"X-A": b"1", "x-b": NOT_GIVEN, "!#$": "v", Odd("x-c"): Odd("é"), b"x-d": ""})
        assert {"X-A": "1", "x-b": NOT_GIVEN, "!#$": "v", "x-c": "é", "x-d": ""} == checked
        assert {str} == {type(value) for value in checked.values()} - {type(NOT_GIVEN)}

    @pytest.mark.parametrize("value", [None, 1, 1.5, True, [KEY], KEY.encode() + b"\xff", bytearray(b"x")])
    def test_values_of_other_types(self, value: Any) -> None:
        for name in ("X-A", "Authorization"):
            with pytest.raises(TypeError, match=f"^header {name}: expected a str, not ") as raised:
                check_headers({name: value})
            shown = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
            assert KEY not in f"{raised.value}{shown.stack[-1].locals}"

    @pytest.mark.parametrize("name", [None, 1, b"\xff", ("a",)])
    def test_names_of_other_types(self, name: Any) -> None:
        with pytest.raises(TypeError, match=r"^name of a header: expected a str, not "):
            check_headers({name: "x"})

    def test_headers_of_another_type(self) -> None:
        with pytest.raises(TypeError, match=r"^headers: expected a dict, not list$"):
            check_headers([("a", "b")])

    @pytest.mark.parametrize("name", ["", "a b", "a:b", "a\n", "é", "a\x00", "(a)"])
    def test_bad_names(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="header name"):
            check_headers({name: "x"})

    @pytest.mark.parametrize(
        "value", ["a\r\nEvil: 1", "a\nb", "a\x00", "a\rb", "a\tb", "a\x1b", "a\x7f", "a\x9b", "a\ud800"]
    )
    def test_bad_values(self, value: str) -> None:
        """Named, but never shown: it may be a key."""
        with pytest.raises(ConfigurationError, match="header X-A has a line break") as raised:
            check_headers({"X-A": KEY + value})
        assert KEY not in str(raised.value)
