"""How a request is told to stream, or not to: in place, in any spelling, every other byte as it was."""

from __future__ import annotations

import pytest

from foreman.protocols import stream_field


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"model":"a"}', b'{"model":"a"}'),
        (b'{"stream":null}', b'{"stream":null}'),
        (b'{"stream": true }', b'{"stream": true }'),
        (b'{"stream":false}', b'{"stream":true}'),
        (b' {"Stream" : false , "x":[false]} tail', b' {"Stream" : true , "x":[false]} tail'),
        (b'{"stream":false,"STREAM":false}', b'{"stream":true,"STREAM":true}'),
        (b'{"\\u0073tream":false}', b'{"\\u0073tream":true}'),
        (b'{"options":{"stream":false}}', b'{"options":{"stream":false}}'),
        (b"not json", b"not json"),
    ],
)
def test_a_native_request_is_made_to_stream(body: bytes, sent: bytes):
    assert stream_field.streamed(body) == sent


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"model":"a"}', b'{"model":"a"}'),
        (b'{"stream":null}', b'{"stream":null}'),
        (b'{"stream":false,"stream_options":{}}', b'{"stream":false,"stream_options":{}}'),
        (
            b'{"stream":true, "stream_options":{"include_usage":true},"n":1}',
            b'{"stream":false, "stream_options":null,"n":1}',
        ),
        (b"[true]", b"[true]"),
    ],
)
def test_a_v1_request_is_made_to_come_whole(body: bytes, sent: bytes):
    assert stream_field.whole(body) == sent
