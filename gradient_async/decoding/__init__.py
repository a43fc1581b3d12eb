"""Encodes the JSON of requests; decodes streams to chunks, and bodies of replies to completions and errors.

Pure: no clock, no I/O. A fast path of a few C calls decodes data in the usual shape. Data that the fast path refuses is
decoded by a tolerant path.
"""

from .choiceless import OtherAPI
from .chunks import ChunkDecoder
from .error_bodies import ErrorBody, describe_error, find_error, parse_error, server_error
from .normalize import decode_body
from .plain import message_to_dict
from .replies import (
    as_chunk,
    check_bounds,
    decode_completion,
    decode_models,
    identify_reply,
    is_stream,
    reply_error,
)
from .requests import check_names, check_params, encode_request, known_params, list_iterables, plain_params

__all__ = [
    "ChunkDecoder",
    "ErrorBody",
    "OtherAPI",
    "as_chunk",
    "check_bounds",
    "check_names",
    "check_params",
    "decode_body",
    "decode_completion",
    "decode_models",
    "describe_error",
    "encode_request",
    "find_error",
    "identify_reply",
    "is_stream",
    "known_params",
    "list_iterables",
    "message_to_dict",
    "parse_error",
    "plain_params",
    "reply_error",
    "server_error",
]
