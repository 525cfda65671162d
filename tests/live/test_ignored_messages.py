"""Audio as text, and other text that is not meant for this server: one error of each kind, then a count."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from signals import white_noise
from speech_qc.errors import ProtocolError
from speech_qc.wire.client_messages import parse_client_message
from speech_qc.wire.text_audio import find_text_audio
from stream_material import converse, frames_of, of_type, pcm16

AUDIO = base64.b64encode(pcm16(white_noise(0.1))).decode()
SILENCE = base64.b64encode(bytes(160)).decode()
URL_SAFE = base64.urlsafe_b64encode(np.arange(256, dtype=np.uint8).tobytes()).decode()
SAMPLES = [0.25] * 160

AUDIO_MESSAGES = {
    "type and data": ({"type": "audio", "data": AUDIO}, "data"),
    "a very short piece": ({"type": "audio", "data": "AAAA"}, "data"),
    "only audio": ({"audio": AUDIO}, "audio"),
    "telephony media stream": ({"event": "media", "media": {"track": "inbound", "payload": SILENCE}}, "media.payload"),
    "buffer append": ({"type": "input_audio_buffer.append", "audio": AUDIO}, "audio"),
    "a chunk in a list": ({"input": {"chunks": [{"mime": "audio/pcm", "data": AUDIO}]}}, "input.chunks.data"),
    "URL-safe base64": ({"payload": URL_SAFE}, "payload"),
    "a data URL": ({"file": "data:audio/wav;base64," + AUDIO}, "file"),
    "another name": ({"x": AUDIO}, "x"),
    "samples as numbers": ({"samples": SAMPLES}, "samples"),
    "a list of numbers": (SAMPLES, "the message"),
    "a base64 string": (AUDIO, "the message"),
}
OTHER_MESSAGES = [
    {"event": "connected", "protocol": "Call", "version": "1.0.0"},
    {"event": "start", "start": {"streamSid": "MZ" + "0a" * 16, "mediaFormat": {"encoding": "audio/x-mulaw"}}},
    {"event": "stop", "data": "whatever"},
    {"type": "input_audio_buffer.commit", "event_id": "event_123"},
    {"type": "session.update", "session": {"input_audio_format": "pcm16", "voice": "alloy"}},
    {"values": [1, 2, 3]},
    {"payload": "This is a sentence with spaces, long enough to be audio if it were base64."},
]


@pytest.mark.parametrize("name", AUDIO_MESSAGES)
def test_audio_as_text_is_recognised_wherever_it_stands(name):
    message, place = AUDIO_MESSAGES[name]
    assert find_text_audio(json.dumps(message)) == place
    with pytest.raises(ProtocolError, match="expected audio in binary messages") as caught:
        parse_client_message(json.dumps(message))
    assert caught.value.detail == {"kind": "audio_as_text"}
    assert len(caught.value.message) < 400


def test_base64_without_json_is_recognised():
    assert find_text_audio(AUDIO) == "the message"
    assert find_text_audio("hello") is None


@pytest.mark.parametrize("message", OTHER_MESSAGES)
def test_messages_without_audio_are_not_taken_for_audio(message):
    said = json.dumps(message)
    assert find_text_audio(said) is None
    with pytest.raises(ProtocolError) as caught:
        parse_client_message(said)
    assert caught.value.detail["kind"] == "unknown_type"


@pytest.mark.parametrize(
    "text", ["[" * 60_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "", "\x00", '"' + "A" * 60_000 + '"']
)
def test_hostile_text_is_only_refused(text):
    with pytest.raises(ProtocolError):
        parse_client_message(text)


def test_250_messages_get_one_error_and_a_count_at_the_end(make_client):
    said = json.dumps(AUDIO_MESSAGES["telephony media stream"][0])
    messages = converse(make_client(), [pcm16(white_noise(0.5)), *[said] * 250])
    (error,) = of_type(messages, "error")
    assert error["error"]["detail"]["kind"] == "audio_as_text"
    (warning,) = of_type(messages, "warning")
    assert warning["code"] == "ignored_messages"
    assert "250 × audio_as_text" in warning["message"]
    assert messages.index(warning) < messages.index(of_type(messages, "summary")[0])
    assert len(frames_of(messages)["noise"]) == 25


def test_each_kind_gets_its_own_first_error(make_client):
    said = ['{"type":"Flush"}', '{"type":"Stop"}', "no json", "[]", '{"type":"Flush"}', '{"event":"start"}', "no json"]
    messages = converse(make_client(), said)
    details = [error["error"]["detail"] for error in of_type(messages, "error")]
    assert details == [
        {"kind": "unknown_type", "type": "Flush"},
        {"kind": "unknown_type", "type": "Stop"},
        {"kind": "not_json"},
        {"kind": "not_an_object"},
        {"kind": "unknown_type"},
    ]
    assert "2 × unknown_type Flush, 2 × not_json" in of_type(messages, "warning")[0]["message"]


def test_a_client_that_invents_types_gets_a_bounded_number_of_errors(make_client):
    messages = converse(make_client(), [json.dumps({"type": f"T{i}" * 20}) for i in range(300)])
    assert 10 < len(of_type(messages, "error")) < 30


def test_a_command_with_an_invalid_field_is_answered_every_time(make_client):
    messages = converse(make_client(), ['{"type":"Configure","emit_ms":30}', '{"type":"Configure","labels":5}'] * 5)
    assert len(of_type(messages, "error")) == 10
    assert not of_type(messages, "warning")
