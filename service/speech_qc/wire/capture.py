"""Types of what the response for a packet capture says besides its channels."""

from __future__ import annotations

from pydantic import Field

from speech_qc.wire.answer import Answer


class MissingAnswer(Answer):
    """Times of a stream that were not received, for one reason."""

    spans: int
    total_ms: float
    longest_ms: float


class RtpStreamAnswer(Answer):
    """One RTP stream of a capture."""

    channel: int | None = Field(description="Index of its channel; null if it could not be decoded.")
    ssrc: str = Field(examples=["0x1a2b3c4d"])
    previous_ssrc: str | None = Field(description="The stream before it between the same addresses.")
    source: str = Field(examples=["192.0.2.1:16384"])
    target: str = Field(examples=["[2001:db8::1]:16384"])
    codecs: list[str] = Field(examples=[["PCMU"]])
    payload_types: dict[str, int] = Field(description="Packets by payload type.")
    sample_rate_hz: int | None
    start_s: float = Field(description="First packet, from the first packet of the capture.")
    duration_s: float = Field(description="Length of the channel, including what was not received.")
    packets: int
    lost: int = Field(description="Packets that did not come, or came too late.")
    lost_ratio: float
    late: int
    duplicates: int
    reordered: int
    damaged: int = Field(description="Packets that could not be decoded.")
    marked: int = Field(description="Packets with the marker bit.")
    comfort_noise: int = Field(description="Packets that describe silence.")
    restarts: int = Field(description="Times that the sequence numbers began anew.")
    clock_resets: int = Field(description="Times that the timestamps jumped away from the time of arrival.")
    jitter_ms: float | None = Field(description="Interarrival jitter (RFC 3550), mean.")
    jitter_max_ms: float | None
    drift_ppm: float | None = Field(description="Sender's clock against the capture's; null for less than 30 s.")
    loss: MissingAnswer
    dtx: MissingAnswer = Field(description="Times in which nothing was sent (discontinuous transmission).")
    digits: str = Field(description="Telephone keys (RFC 4733), masked by default.")


class CaptureAnswer(Answer):
    """A packet capture."""

    packets: int
    other_packets: int = Field(description="Packets that belong to no RTP stream.")
    streams: list[RtpStreamAnswer]
