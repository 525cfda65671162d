"""Types of the HTTP responses, as in OpenAPI. Large responses are encoded directly from arrays; tests check them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from speech_qc.contract import Family, ModelContract
from speech_qc.wire.answer import Answer
from speech_qc.wire.capture import CaptureAnswer
from speech_qc.wire.vocabulary import (
    AudioWarningCode,
    BandReference,
    CallState,
    GapKind,
    InteractionKind,
    LossKind,
    ReadyState,
    ReloadOutcome,
    ResultsScope,
    Severity,
    Status,
    ToneKind,
    WorkerReloadOutcome,
)


class ModelInfo(Answer):
    """The model that produced a response."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(examples=["speech-qc-base"])
    version: str = Field(examples=["0.1.0"])
    sha256: str


class ErrorDetail(Answer):
    """One error."""

    code: str = Field(examples=["invalid_audio"])
    message: str = Field(description="What was expected, what was received, what to do.")
    detail: dict[str, Any] = Field(description="The facts of the message in machine-readable form.")
    request_id: str | None


class ErrorAnswer(Answer):
    """The body of every error."""

    error: ErrorDetail


class AudioAnswer(Answer):
    """Properties of the recording, from its header and its samples."""

    duration_s: float = Field(examples=[8.0])
    sample_rate_hz: int = Field(examples=[16000])
    channels: int = Field(examples=[1])
    encoding: str = Field(examples=["wav/PCM_16"])
    frames: int = Field(description="Frames of 20 ms of each channel: ceil(N / 320) for N samples at 16 kHz.")


class BandAnswer(Answer):
    """The frequency band of an event."""

    low_hz: int = Field(ge=0)
    high_hz: int = Field(ge=0)
    against: BandReference = Field(
        description="What the event's spectrum was compared with: the floor around it, or its own strongest band."
    )


class EvidenceAnswer(Answer):
    """Evidence for an event; `unknown` gives the reason for each null."""

    band: BandAnswer | None
    over_floor_db: float | None = Field(description="Level in the band relative to the floor around the event.")
    snr_db: float | None = Field(description="Mean over the event's speech frames.")
    kind: str | None = Field(description="Closest kind of sound among the labels.", examples=["stationary_noise"])
    kind_score: float | None = Field(description="Mean score of that label in the event.")
    unknown: dict[str, str]


class DropoutDetailAnswer(Answer):
    """What replaced the lost samples of a dropout."""

    kind: LossKind
    gap_ms: float = Field(ge=0, examples=[20.0])


class ToneDetailAnswer(Answer):
    """What kind of tone was found."""

    kind: ToneKind
    frequencies_hz: list[float] = Field(description="Components of the tone, or the fundamental of a hum.")
    digits: str | None = Field(description="Keys of a telephone (DTMF), masked by default; null for other tones.")


class EventAnswer(Answer):
    """A time span in which one label was detected."""

    event_id: int
    label: str = Field(examples=["stationary_noise"])
    family: Family
    onset_s: float
    offset_s: float | None
    score_max: float = Field(ge=0, le=1)
    score_mean: float = Field(ge=0, le=1)
    severity: Severity
    detail: DropoutDetailAnswer | ToneDetailAnswer | None = Field(
        default=None, description="Details of a dropout or a tone; absent if there are none."
    )
    evidence: EvidenceAnswer | None = Field(default=None, description="Absent without explain=true.")


class LevelsAnswer(Answer):
    """Measurements of the signal itself, at its native rate; `unknown` gives the reason for each null."""

    rms_dbfs: float | None
    peak_dbfs: float | None
    clipped_ratio: float | None
    dc_offset: float | None
    digital_silence_ratio: float | None
    bandwidth_hz: float | None
    loudness_lufs: float | None
    loudness_max_lufs: float | None
    loudness_range_lu: float | None
    true_peak_dbtp: float | None
    noise_floor_dbfs: float | None
    high_band_dbfs: float | None
    high_tone_hz: float | None
    cancellation_db: float | None
    unknown: dict[str, str]


class StereoAnswer(Answer):
    """Comparison of the two channels of a recording; `unknown` gives the reason for each null."""

    correlation: float | None = Field(ge=-1, le=1)
    imbalance_db: float | None = Field(description="Level of channel 0 relative to channel 1.")
    inverted: bool | None = Field(description="Whether one channel has inverted polarity, so that their mean cancels.")
    unknown: dict[str, str]


class SummaryAnswer(Answer):
    """Measurements of the whole channel; `unknown` gives the reason for each null."""

    quality: float | None = Field(
        ge=0, le=100, description="The verdict's score: pass from 70, warn from 40; null if the verdict is unknown."
    )
    speech_ratio: float | None
    noise_ratio: float | None
    interference_ratio: float | None
    snr_db: float | None
    sig: float | None
    bak: float | None
    ovrl: float | None
    reverberation: float | None
    snr_by_kind_db: dict[str, float] = Field(
        description="`snr_db` of each kind of disturbance alone; empty where `snr_db` is null."
    )
    lost_ratio: float | None = Field(description="Share of the talker's time that was lost.")
    losses_per_min: float | None = Field(description="Losses in speech per minute.")
    longest_loss_ms: float | None = Field(description="Length of the longest loss; 0 if there are none.")
    unknown: dict[str, str]


class ReasonAnswer(Answer):
    """One reason for a verdict."""

    code: str = Field(examples=["snr_db_below"])
    message: str
    label: str | None
    value: float | None
    limit: float | None


class VerdictAnswer(Answer):
    """The verdict according to the profile."""

    status: Status
    reasons: list[ReasonAnswer]


class GapAnswer(Answer):
    """A stretch that was not received."""

    kind: GapKind
    start_s: float
    stop_s: float


class TransportAnswer(Answer):
    """What a live channel did not receive, and how its audio arrived."""

    missing_ms: float = Field(description="Not received, whatever the reason; such frames are null.")
    missing_ratio: float | None = Field(description="The same, relative to the duration.")
    loss_ms: float
    dtx_ms: float = Field(description="Not sent, because the source was silent.")
    hold_ms: float = Field(description="Not sent, because the sender paused.")
    gaps: list[GapAnswer]
    gaps_dropped: int | None = Field(default=None, description="Gaps above the limit, counted but not listed.")
    late: int = Field(description="Packets that came too late to be scored.")
    duplicates: int
    reordered: int = Field(description="Packets that were put back into order.")
    restarts: int = Field(description="How often the sender's positions began anew.")
    drift_ppm: float | None = Field(description="How much faster the sender's clock runs; null if unknown.")


class ChannelFindings(Answer):
    """Results of one channel, without its frames."""

    channel: int
    role: str | None = Field(default=None, description="Name of the leg; absent unless the channels are legs.")
    events: list[EventAnswer]
    events_dropped: int | None = Field(default=None, description="Events above the limit, counted but not listed.")
    levels: LevelsAnswer
    summary: SummaryAnswer
    verdict: VerdictAnswer
    transport: TransportAnswer | None = Field(default=None, description="Absent if everything was received in order.")


class ChannelAnswer(ChannelFindings):
    """Results of one channel."""

    frames: dict[str, list[float | None]] | None = Field(
        default=None, description="Scores by label, one per 20 ms; absent with frames=false."
    )


class EchoDetailAnswer(Answer):
    """How an echo returns."""

    lag_ms: int = Field(ge=0, examples=[180], description="Time from the leg that hears itself until the echo.")
    loss_db: float = Field(examples=[18.0], description="Attenuation of the echo.")


class InteractionEventAnswer(Answer):
    """Something that happened between the two legs of a call."""

    event_id: int
    label: InteractionKind
    leg: str | None = Field(
        description="The silent leg of `one_way_audio`, the one that interrupts in `talk_over`, the one that hears "
        "itself in `echo`; null if it is neither or both."
    )
    onset_s: float
    offset_s: float | None
    detail: EchoDetailAnswer | None = Field(default=None, description="Only of an echo.")


class ResponseAnswer(Answer):
    """How long it takes from the end of one party's speech until the other one answers, seconds."""

    median: float
    p95: float


class InteractionLegAnswer(Answer):
    """What one leg of a call does."""

    role: str = Field(examples=["agent"])
    talk_ratio: float | None = Field(description="Share of the received time in which its party talks, without echo.")
    silence_ratio: float | None = Field(description="Share with neither speech nor music nor tones.")
    interruptions: int = Field(description="Times that it began to talk while the other one was talking.")
    response_s: ResponseAnswer | None = Field(description="How long it takes to answer; null if it never answers.")


class InteractionAnswer(Answer):
    """What happens between the two legs of a call; `unknown` gives the reason for each null."""

    duration_s: float
    legs: list[InteractionLegAnswer]
    response_s: ResponseAnswer | None = Field(description="Of both legs together.")
    events: list[InteractionEventAnswer]
    events_dropped: int | None = Field(default=None, description="Events above the limit, counted but not listed.")
    unknown: dict[str, str]


class TimingAnswer(Answer):
    """Time spent, seconds; a step shared by several chunks counts in full for each."""

    decode_s: float
    features_s: float
    queue_s: float
    inference_s: float
    total_s: float


class AudioWarningAnswer(Answer):
    """A problem with a recording that was inspected all the same."""

    code: AudioWarningCode
    message: str


class InspectAnswer(Answer):
    """The response for an inspected recording."""

    request_id: str
    model: ModelInfo
    profile: str = Field(description="Name of the profile that judged.", examples=["default"])
    audio: AudioAnswer
    frame_hop_s: float
    warnings: list[AudioWarningAnswer] = Field(description="What was wrong with the recording, although it was read.")
    stereo: StereoAnswer | None = Field(default=None, description="Absent unless there are two channels.")
    interaction: InteractionAnswer | None = Field(default=None, description="Absent without `legs`.")
    capture: CaptureAnswer | None = Field(default=None, description="Only for a packet capture: its RTP streams.")
    channels: list[ChannelAnswer]
    timing: TimingAnswer


class CallLegAnswer(Answer):
    """One leg of a call: when it came and went; from `channel` on what was found, absent while the leg lasts."""

    role: str = Field(examples=["agent"])
    name: str | None = Field(description="A name for people, if the sender gave one.")
    vendor: str = Field(examples=["twilio"])
    sample_rate_hz: int
    started_at: datetime
    ended_at: datetime | None
    offset_s: float = Field(description="Begin of its audio on the clock of the call.")
    metadata: dict[str, str]
    digits: str = Field(description="Keys that were pressed, masked by default.")
    late_s: float = Field(description="Audio that came too late to be compared with the other leg.")
    channel: int | None = Field(default=None, description="Its channel in the stream that brought it.")
    duration_s: float | None = None
    frames: int | None = None
    events: list[EventAnswer] | None = None
    events_dropped: int | None = None
    levels: LevelsAnswer | None = None
    summary: SummaryAnswer | None = None
    verdict: VerdictAnswer | None = None
    transport: TransportAnswer | None = None


class CallAnswer(Answer):
    """The document of a call."""

    call_id: str
    document_id: str = Field(
        description="Another one for each document of the call: it has several if different servers took its legs, or "
        "if it began anew."
    )
    name: str | None
    trunk: str | None
    vendor: str
    started_at: datetime
    ended_at: datetime | None
    state: CallState
    legs: list[CallLegAnswer]
    interaction: InteractionAnswer | None
    unknown: dict[str, str] = Field(description="The reason for each null.")
    lost: bool = Field(
        default=False,
        description="Only if true: the call was cut off, because the process that had it was killed.",
    )
    documents: int | None = Field(
        default=None,
        description="Only of `GET /v1/calls/{id}`, and only if the call has several documents: how many. This is the "
        "newest one; `GET /v1/calls?call=` lists all.",
    )


class ModelAnswer(Answer):
    """The model in use and how it runs."""

    model: ModelInfo
    provider: str = Field(examples=["CPUExecutionProvider"])
    provider_fallback: bool
    latency_s: float = Field(description="From the end of a frame until its last needed sample has arrived.")
    frame_hop_s: float
    profiles: list[str]
    default_profile: str
    contract: ModelContract


class HealthAnswer(Answer):
    """The process is alive."""

    status: Literal["live"]
    version: str


class ReadyAnswer(Answer):
    """Whether the server accepts new work."""

    status: ReadyState
    provider: str
    provider_fallback: bool
    model: ModelInfo
    workers: int
    sessions: int
    queued: int
    reason: str | None


class TokenAnswer(Answer):
    """A token that can be used instead of a key."""

    token: str
    expires_in_s: float = Field(examples=[60.0])


class WorkerReload(Answer):
    """Result of a reload in one of several processes."""

    worker: int
    outcome: WorkerReloadOutcome = Field(
        description="`starting`: the process is starting and loads the current file. Only in the `detail` of an error: "
        "`failed`, its old model stays in use; `kept`, it was not asked to reload."
    )
    model: ModelInfo | None = Field(description="The model that it serves; null while it is starting.")
    old_models: int | None
    message: str | None = None


class ReloadAnswer(Answer):
    """Result of a reload."""

    outcome: ReloadOutcome = Field(description="`unchanged`: the file contains the model in use.")
    model: ModelInfo
    old_models: int = Field(description="Earlier models that streams still use.")
    workers: list[WorkerReload] | None = Field(default=None, description="With several processes: the result in each.")


class CallsAnswer(Answer):
    """Calls, the newest first."""

    calls: list[dict[str, Any]] = Field(description="Call documents; that of a live call is a few seconds old.")
    next: int | None = Field(description="Value of `before` for the calls that follow; null at the end.")
    scope: ResultsScope = Field(
        description="`server`: only the calls of this server; other servers behind the same address have their own. "
        "`shared`: the calls of all servers that share its database."
    )
