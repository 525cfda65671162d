"""SRTP that no SIP announces, encrypted by libsrtp, and SIP over TCP in any segments."""

from __future__ import annotations

import socket
from dataclasses import replace

import dpkt
import pytest
from pylibsrtp import Policy, Session
from test_rtp_reader import PAYLOADS, SDP, Read, read

from rtp_captures import A, B, Capture, ethernet, linear16, sent
from signals import voice

SIP_A, SIP_B = ("192.0.2.1", 5060), ("192.0.2.2", 5060)
WIDE = sent(linear16(voice(1.0)), 320, clock_hz=16_000, payload_type=97)
HEAD, BODY = SDP.split("\r\n\r\n")
OK = f"{HEAD}\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()
BYE = b"BYE sip:192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1\r\nl: 0\r\n\r\n"


def encrypted(packets, profile):
    key = bytes(range(28 if profile == Policy.SRTP_PROFILE_AEAD_AES_128_GCM else 30))
    policy = Policy(key=key, ssrc_type=Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile)
    session = Session(policy=policy)
    return [replace(one, payload=session.protect(one.rtp())[12:]) for one in packets]


@pytest.mark.parametrize(
    "profile",
    [
        Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
        Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
        Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    ],
)
@pytest.mark.parametrize("wide", [False, True])
def test_srtp_that_nothing_announces_is_named_by_stream_and_not_scored(profile, wide):
    plain = sent(PAYLOADS, ssrc=7, source=B, target=A)
    packets = sent(linear16(voice(1.0), 441), 441, clock_hz=44_100, payload_type=11) if wide else sent(PAYLOADS)
    found = Read(Capture().add(encrypted(packets, profile)).add(plain).pcap())
    hidden, heard = found.report.streams
    assert (hidden.channel, hidden.packets, heard.channel) == (None, len(packets), 0)
    (warning,) = found.reader.warnings()
    assert warning.code == "streams_not_read" and "0x1234abcd" in warning.message and "SRTP" in warning.message


def test_a_handshake_of_dtls_between_two_ends_encrypts_what_passes_between_them():
    hello = b"\x16\xfe\xfd" + bytes(10) + b"\x01"
    codes = [
        Read(Capture().datagram(-1, hello, *ends).add(sent(PAYLOADS)).pcap()).codes
        for ends in ((A, B), (B, A), (A, ("192.0.2.9", 20_000)))
    ]
    assert codes == [["streams_not_read"], ["streams_not_read"], []]


def test_packets_that_are_longer_than_their_timestamps_say_by_another_length_are_no_srtp():
    found = read(sent(PAYLOADS, 153))
    assert found.only.channel == 0 and found.codes == ["samples_damaged"]


def over_tcp(*parts, first=1000, lost=(), source=SIP_B, target=SIP_A):
    """A capture of segments, and then of 1 s of L16 as dynamic type 97."""
    capture, sequence = Capture(), first
    for number, part in enumerate(parts):
        segment = dpkt.tcp.TCP(sport=source[1], dport=target[1], seq=sequence & 0xFFFFFFFF, data=part)
        ends = {"src": socket.inet_aton(source[0]), "dst": socket.inet_aton(target[0])}
        packet = dpkt.ip.IP(p=6, len=20 + len(segment), data=segment, **ends)
        if number not in lost:
            capture.frames.append((-2 + number / 100, ethernet(packet)))
        sequence += len(part)
    return Read(capture.add(WIDE).pcap())


@pytest.mark.parametrize("first", [1000, 2**32 - 60])
@pytest.mark.parametrize("size", [10_000, 200, 50, 33])
def test_sip_over_tcp_explains_dynamic_types_however_it_is_cut(size, first):
    data = BYE + OK + b"\r\n\r\n" + BYE
    found = over_tcp(*(data[at : at + size] for at in range(0, len(data), size)), first=first)
    assert (found.only.codecs, found.codes) == (("L16",), [])


def test_sip_over_tcp_that_is_not_whole_is_named():
    found = over_tcp(OK[:100], OK[100:150], OK[150:], lost={1})
    assert found.only.channel is None
    assert found.codes == ["packets_not_read", "streams_not_read"]
    again = over_tcp(OK[:100], OK[100:150], OK[150:], OK, lost={1})
    assert again.only.codecs == ("L16",) and again.codes == ["packets_not_read"]


def test_sip_over_tls_is_named():
    ends = {"source": ("192.0.2.2", 40_000), "target": ("192.0.2.1", 5061)}
    found = over_tcp(b"\x16\x03\x01\x02\x00" + bytes(512), **ends)
    assert found.codes == ["packets_not_read", "streams_not_read"]
    assert over_tcp(b"\x16\x03\x01\x02\x00", target=("192.0.2.1", 443)).codes == ["streams_not_read"]
