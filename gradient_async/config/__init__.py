"""Settings: endpoints, keys, time limits, retries, limits on what a server may send.

Pure: the environment comes in as a mapping, so that a test needs no environment.
"""

from .endpoints import DEFAULT_INFERENCE_ENDPOINT, Endpoints, from_env, resolve
from .secrets import HiddenHeader, Secret, check_headers, hide_headers, secrets_in
from .settings import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, Limits, Retry, Timeout

__all__ = [
    "DEFAULT_INFERENCE_ENDPOINT",
    "DEFAULT_MAX_RETRIES",
    "DEFAULT_TIMEOUT",
    "Endpoints",
    "HiddenHeader",
    "Limits",
    "Retry",
    "Secret",
    "Timeout",
    "check_headers",
    "from_env",
    "hide_headers",
    "resolve",
    "secrets_in",
]
