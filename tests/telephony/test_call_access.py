"""Who may open a phone system's socket: signatures, keys, origins; and refusals that vendors understand."""

import base64
import hashlib
import hmac
import time
from typing import Any

import pytest
from starlette.datastructures import Headers
from telephony_material import keep_calls, talk_to
from test_asterisk import ASTERISK_JSON
from test_twilio import CONNECTED, STOP, start
from test_vendors import GENESYS_HEADERS, OPEN, genesys
from twilio.request_validator import RequestValidator

from live_server import serving
from speech_qc.errors import SettingsError, Unauthorized
from speech_qc.security.api_keys import make_key, write_keys
from speech_qc.security.bind_check import audiosocket_networks, check_exposure
from speech_qc.security.call_signatures import CallSignatures
from speech_qc.settings import Settings
from speech_qc.telephony import refusal

pytestmark = pytest.mark.anyio

TOKEN = "12345678901234567890123456789012"
SECRET = "TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU="
CALL = [CONNECTED, start(), STOP]


async def twilio(url, headers, said=CALL, **options):
    return await talk_to(url, said, close=False, additional_headers=headers, **options)


@pytest.mark.parametrize("public", [None, "wss://qc.example.com", "https://qc.example.com:8443/prefix"])
async def test_the_signature_of_twilio_is_checked_as_its_own_validator_makes_it(public):
    options = {} if public is None else {"telephony_url": public}
    async with serving(twilio_auth_token=TOKEN, **options) as (url, app):
        calls = keep_calls(app)
        target = "/v1/telephony/twilio?trunk=a1"
        signed = RequestValidator(TOKEN).compute_signature((public or url) + target, {})
        _, good = await twilio(url + target, {"X-Twilio-Signature": signed})
        await calls.until_ended(1)
        _, other_query = await twilio(url + target + "2", {"X-Twilio-Signature": signed})
        _, forged = await twilio(url + target, {"X-Twilio-Signature": "AAAA" + signed[4:]})
        _, missing = await twilio(url + target, {})
        _, untold = await twilio(f"{url}/v1/telephony", {})
    assert good.close_code == 1000
    assert [one.close_code for one in (other_query, forged, missing, untold)] == [1008] * 4
    assert (forged.close_reason or "").startswith("unauthorized")
    assert len(calls.legs) == 1


async def test_the_signature_v3_of_plivo():
    # plivo-python, plivo/utils/signature_v3.py: the query sorted, then a point and the nonce
    async with serving(plivo_auth_token=TOKEN, telephony_url="https://qc.example.com") as (url, app):
        keep_calls(app)
        text = "https://qc.example.com/v1/telephony/plivo?call=1&trunk=a.12345"
        made = base64.b64encode(hmac.digest(TOKEN.encode(), text.encode(), hashlib.sha256)).decode()
        target = f"{url}/v1/telephony/plivo?trunk=a&call=1"
        said = [{"event": "start", "start": {"callId": "p1", "tracks": ["inbound"]}}, {"event": "stop"}]
        closes = []
        for signature, nonce in ((f"x, {made}", "12345"), (made, "54321")):
            headers = {"X-Plivo-Signature-V3": signature, "X-Plivo-Signature-V3-Nonce": nonce}
            closes.append((await twilio(target, headers, said))[1].close_code)
    assert closes == [1000, 1008]


def signed_by_genesys(now_s, nonce="VGhpc0lzQVVuaXF1ZU5vbmNl", prefix="", **changes):
    """Sign an upgrade, as documented at https://developer.genesys.cloud/devapps/audiohook/security."""
    names = ("@request-target", "@authority", *(name.lower() for name in GENESYS_HEADERS))
    values = {"@request-target": f"{prefix}/v1/telephony/genesys", "@authority": "audiohook.example.com"}
    values |= {name.lower(): value for name, value in GENESYS_HEADERS.items()}
    listed = " ".join(f'"{name}"' for name in names)
    key = GENESYS_HEADERS["X-API-KEY"]
    given = f'({listed});keyid="{key}";nonce="{nonce}";alg="hmac-sha256";created={int(now_s)};expires={int(now_s) + 10}'
    text = "\n".join([*(f'"{name}": {values[name]}' for name in names), f'"@signature-params": {given}'])
    made = base64.b64encode(hmac.digest(base64.b64decode(SECRET), text.encode(), hashlib.sha256)).decode()
    return GENESYS_HEADERS | {"Signature-Input": f"sig1={given}", "Signature": f"sig1=:{made}:"} | changes


@pytest.mark.parametrize("prefix", ["", "/qc"])
async def test_the_signature_of_genesys_is_good_once_and_for_ten_seconds(prefix, monkeypatch):
    """It covers the public path, of which a proxy may take away the first part."""
    monkeypatch.setattr(refusal, "PARTING_S", 0.2)
    settings = {
        "genesys_api_key": GENESYS_HEADERS["X-API-KEY"], "genesys_secret": SECRET,
        "telephony_url": f"wss://audiohook.example.com{prefix}",
    }  # fmt: skip
    said = [genesys("open", 1, **OPEN), genesys("close", 2, reason="end")]
    now_s = time.time()
    tries = {
        "good": signed_by_genesys(now_s, prefix=prefix),
        "again": signed_by_genesys(now_s, prefix=prefix),
        "other path": signed_by_genesys(now_s, "a-nonce-of-enough-length", prefix="/other"),
        "old": signed_by_genesys(now_s - 60, "another-nonce-of-enough-length", prefix=prefix),
        "short nonce": signed_by_genesys(now_s, "short", prefix=prefix),
        "other organization": signed_by_genesys(
            now_s, "a-third-nonce-of-enough-length", prefix, **{"Audiohook-Organization-Id": "x"}
        ),
        "unsigned": GENESYS_HEADERS,
    }
    answers = {}
    async with serving(**settings) as (url, app):
        calls = keep_calls(app)
        for name, headers in tries.items():
            answers[name], _ = await twilio(f"{url}/v1/telephony/genesys", headers, said)
        await calls.until_ended(2)
    assert [answer["type"] for answer in answers.pop("good")] == ["opened", "closed"]
    for name, got in answers.items():
        assert [one["type"] for one in got] == ["disconnect", "closed"], name
        assert got[0]["parameters"]["reason"] == "unauthorized", name


def test_the_example_of_genesys_documentation():
    # https://developer.genesys.cloud/devapps/audiohook/security
    headers = Headers(
        {
            "host": "audiohook.example.com",
            "audiohook-organization-id": "d7934305-0972-4844-938e-9060eef73d05",
            "audiohook-session-id": "30b0e395-84d3-4570-ac13-9a62d8f514c0",
            "audiohook-correlation-id": "e160e428-53e2-487c-977d-96989bf5c99d",
            "x-api-key": "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh",
            "signature-input": 'sig1=("@request-target" "@authority" "audiohook-organization-id" '
            '"audiohook-session-id" "audiohook-correlation-id" "x-api-key");keyid="SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh";'
            'nonce="VGhpc0lzQVVuaXF1ZU5vbmNl";alg="hmac-sha256";created=1641013200;expires=3282026430',
            "signature": "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:",
        }
    )
    settings = Settings(genesys_api_key="SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh", genesys_secret=SECRET)  # type: ignore[arg-type]
    scope = {"path": "/api/v1/voicebiometrics/ws", "query_string": b""}
    assert CallSignatures(settings, clock=lambda: 1641013205.0).signer(scope, headers) == "genesys"
    with pytest.raises(Unauthorized):
        CallSignatures(settings, clock=lambda: 1641013225.0).signer(scope, headers)


async def test_with_keys_every_call_needs_one_where_its_vendor_can_put_it(tmp_path):
    file = tmp_path / "keys.jsonl"
    key, entry = make_key("pbx")
    write_keys(file, [entry])
    basic = base64.b64encode(f"asterisk:{key}".encode()).decode()
    said = [ASTERISK_JSON]
    async with serving(api_keys_file=file) as (url, app):
        calls = keep_calls(app)
        path = f"{url}/v1/telephony/asterisk"
        closes = {}
        for name, query, headers in (
            ("none", "", {}),
            ("wrong", "?key=sqk_wrong", {}),
            ("query", f"?key={key}&call=q", {}),
            ("basic", "?call=b", {"Authorization": f"Basic {basic}"}),
            ("bearer", "?call=h", {"Authorization": f"Bearer {key}"}),
            ("header", "?call=x", {"X-API-Key": key}),
        ):
            _, socket = await talk_to(path + query, said, additional_headers=headers)
            closes[name] = socket.close_code
        await calls.until_ended(4)
    assert closes.pop("none") == closes.pop("wrong") == 1008
    assert set(closes.values()) == {1000}
    assert {call for call, _ in calls.legs} == {"q", "b", "h", "x"}
    assert key not in str([leg.info for leg in calls.legs.values()])


@pytest.mark.parametrize("way", ["?key=", "?token=", "Basic", "Bearer", "Bearer token", "X-API-Key"])
async def test_a_key_or_token_that_may_only_watch_brings_no_audio(tmp_path, way):
    file = tmp_path / "keys.jsonl"
    key, entry = make_key("wallboard", rights=("watch",))
    write_keys(file, [entry])
    async with serving(api_keys_file=file) as (url, app):
        calls = keep_calls(app)
        token = app.state.parts.key_ring.make_token(entry)
        given = token if "token" in way else key
        basic = base64.b64encode(f"asterisk:{key}".encode()).decode()
        headers = {
            "Basic": {"Authorization": f"Basic {basic}"},
            "X-API-Key": {"X-API-Key": key},
        }.get(way, {"Authorization": f"Bearer {given}"} if way.startswith("Bearer") else {})
        query = f"{way}{given}" if way.startswith("?") else ""
        said: list[bytes | str | dict[str, Any]] = [ASTERISK_JSON, b"\xff" * 1600]
        for path in ("/v1/telephony", "/v1/telephony/asterisk"):
            _, socket = await talk_to(url + path + query, said, close=False, additional_headers=headers)
            assert (socket.close_code, (socket.close_reason or "").partition(":")[0]) == (1008, "forbidden"), path
        assert not calls.legs


@pytest.mark.parametrize(
    ("secret", "header", "vendor"),
    [
        ("twilio_auth_token", "x-twilio-signature", "twilio"),
        ("plivo_auth_token", "x-plivo-signature-v3", "plivo"),
        ("genesys_secret", "signature", "genesys"),
    ],
)
@pytest.mark.parametrize("host", [b"qc.example.com", b"[", "\u00e9".encode("latin-1")])
def test_a_signature_or_host_with_any_bytes_is_a_wrong_signature(secret, header, vendor, host):
    settings = Settings.model_validate({secret: SECRET, "genesys_api_key": "k"})
    scope = {"path": f"/v1/telephony/{vendor}", "raw_path": b"/v1/telephony/\xff", "query_string": b"call=\xff&b"}
    for given in (b"\xe9", b"sig1=:\xe9:", b"", b"," * 10, "\u20ac".encode()):
        raw = [(b"host", host), (header.encode(), given), (b"x-plivo-signature-v3-nonce", b"\xff")]
        raw += [(b"signature-input", b'sig1=("@authority");keyid="\xe9";created=1'), (b"x-api-key", b"\xe9")]
        with pytest.raises(Unauthorized, match=vendor):
            CallSignatures(settings).signer(scope, Headers(raw=raw))


async def test_the_quota_of_a_key_counts_legs(tmp_path):
    file = tmp_path / "keys.jsonl"
    key, entry = make_key("pbx", max_streams=1)
    write_keys(file, [entry])
    async with serving(api_keys_file=file) as (url, app):
        keep_calls(app)
        said = [CONNECTED, start(tracks=("inbound", "outbound")), STOP]
        _, socket = await talk_to(f"{url}/v1/telephony?key={key}", said, close=False)
        assert socket.close_code == 1013
        assert app.state.parts.streams.channels == 0


async def test_web_pages_may_not_call_but_freeswitch_may():
    async with serving() as (url, app):
        keep_calls(app)
        _, page = await talk_to(f"{url}/v1/telephony/twilio", CALL, origin="https://evil.example")
        assert page.close_code == 1008


def test_audiosocket_is_not_opened_to_everyone_by_mistake():
    with pytest.raises(SettingsError, match="lets everyone in"):
        check_exposure(Settings(audiosocket="0.0.0.0:9092", audiosocket_allow="0.0.0.0/0"))
    with pytest.raises(SettingsError, match="host:port"):
        audiosocket_networks(Settings(audiosocket="9092"))
    with pytest.raises(SettingsError, match="expected addresses"):
        audiosocket_networks(Settings(audiosocket_allow="office"))
    assert len(audiosocket_networks(Settings(audiosocket="0.0.0.0:9092", audiosocket_allow="10.1.2.0/24"))) == 1
