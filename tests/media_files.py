"""Recordings that FFmpeg writes: small files of the formats that browsers, phones and telephone systems produce."""

from __future__ import annotations

import io
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES = 1024
BIT_RATES = {"g723_1": 6300, "g726": 32_000, "wmav2": 64_000, "libopencore_amrnb": 12_200}


@dataclass(frozen=True)
class Made:
    """How to make a recording.

    Args:
        container: FFmpeg's name of the container.
        codec: FFmpeg's name of the encoder.
        rate_hz: Sample rate.
        encoding: What `AudioInfo.encoding` is to say.
        loss_db: How much the codec may change the level.
        options: Options of the container.
    """

    container: str
    codec: str
    rate_hz: int
    encoding: str
    loss_db: float = 1.0
    options: tuple[tuple[str, str], ...] = ()


FORMATS = {
    "webm/opus": Made("webm", "libopus", 48_000, "webm/opus"),
    "webm/live": Made("webm", "libopus", 48_000, "webm/opus", options=(("live", "1"),)),
    "matroska/flac": Made("matroska", "flac", 16_000, "matroska/flac"),
    "m4a": Made("ipod", "aac", 16_000, "mp4/aac"),
    "mp4/fragments": Made("mp4", "aac", 48_000, "mp4/aac", options=(("movflags", "frag_keyframe+empty_moov"),)),
    "mov/pcm": Made("mov", "pcm_s24le", 48_000, "mov/pcm_s24le"),
    "m4a/alac": Made("ipod", "alac", 44_100, "mp4/alac"),
    "3gp": Made("3gp", "libopencore_amrnb", 8_000, "3gp/amr_nb", 3.0),
    "amr": Made("amr", "libopencore_amrnb", 8_000, "amr/amr_nb", 3.0),
    "aac": Made("adts", "aac", 44_100, "aac/aac"),
    "wma": Made("asf", "wmav2", 44_100, "asf/wmav2"),
    "ogg/flac": Made("ogg", "flac", 16_000, "ogg/flac"),
    "wav/g722": Made("wav", "g722", 16_000, "wav/adpcm_g722"),
    "wav/g723": Made("wav", "g723_1", 8_000, "wav/g723_1", 6.0),
    "wav/g726": Made("wav", "g726", 8_000, "wav/adpcm_g726", 2.0),
    "wav/ac3": Made("wav", "ac3", 48_000, "wav/ac3"),
    "avi/mp3": Made("avi", "libmp3lame", 44_100, "avi/mp3"),
    "flv/aac": Made("flv", "aac", 44_100, "flv/aac"),
    "mpegts/aac": Made("mpegts", "aac", 48_000, "mpegts/aac"),
    "mpeg/mp2": Made("mpeg", "mp2", 48_000, "mpeg/mp2"),
    "wavpack": Made("wv", "wavpack", 48_000, "wavpack/wavpack"),
    "tta": Made("tta", "tta", 48_000, "tta/tta"),
}


def encoded(samples: NDArray[np.float32], made: Made, *, tracks: int = 1, pictures: bool = False) -> bytes:
    """Encode samples.

    Args:
        samples: float32 [n] or [n, 2].
        made: Container and codec.
        tracks: Number of sound tracks, all with the same samples.
        pictures: Add a picture track of one second.
    """
    channels = samples.reshape(len(samples), -1)
    layout = "mono" if channels.shape[1] == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format=made.container, options=dict(made.options)) as container:
        video = container.add_stream("mpeg4", rate=10) if pictures else None
        added = [container.add_stream(made.codec, rate=made.rate_hz, layout=layout) for _ in range(tracks)]
        streams = [stream for stream in added if isinstance(stream, av.AudioStream)]
        for stream in streams:
            if made.codec in BIT_RATES:
                stream.bit_rate = BIT_RATES[made.codec]
        if video is not None:
            video.width = video.height = 64
            for number in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), "rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        for stream in streams:
            _encode(container, stream, channels, layout)
    return file.getvalue()


def _encode(
    container: av.container.OutputContainer, stream: av.AudioStream, channels: NDArray[np.float32], layout: str
) -> None:
    """Encode one track."""
    size = stream.codec_context.frame_size or FRAME_SAMPLES
    to_codec = av.AudioResampler(format=stream.format, layout=layout, rate=stream.rate, frame_size=size)
    for start in range(0, len(channels), FRAME_SAMPLES):
        piece = np.ascontiguousarray(channels[start : start + FRAME_SAMPLES].reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(piece, "flt", layout)
        frame.sample_rate, frame.pts = stream.rate, start
        for ready in to_codec.resample(frame):
            container.mux(stream.encode(ready))
    for ready in to_codec.resample(None):
        container.mux(stream.encode(ready))
    container.mux(stream.encode(None))
