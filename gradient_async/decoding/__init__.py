"""Requests to JSON bytes; event data to chunks; replies to completions or errors.

Pure: no clock, no I/O. What servers usually send takes a fast path of a few C calls; what only some
send takes a tolerant one behind it, and is counted as an anomaly.
"""

from .chunks import ChunkDecoder
from .error_bodies import ErrorBody, find_error, parse_error, server_error
from .replies import as_chunk, check_bounds, decode_completion, decode_models, reply_error
from .requests import check_params, encode_request, known_params, message_to_dict

__all__ = [
    "ChunkDecoder",
    "ErrorBody",
    "as_chunk",
    "check_bounds",
    "check_params",
    "decode_completion",
    "decode_models",
    "encode_request",
    "find_error",
    "known_params",
    "message_to_dict",
    "parse_error",
    "reply_error",
    "server_error",
]
