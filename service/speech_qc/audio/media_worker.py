"""Decodes one recording with FFmpeg's libraries, as a program of its own; `audio.media_process` starts it.

It reads the recording from descriptor 0 and writes messages to descriptor 1: one byte for the kind, four for the
length, little-endian, then the content. `H`: header; `F`: a decoded frame, first the index of its sample format; `E`:
the end with totals; `X`: an error. It imports nothing of this package, because its start takes time in every
inspection. Before it looks at the recording, it gives up the right to open files and sockets, to start processes, to
write files, and to use more than a fixed amount of memory and CPU time.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler
    from av.audio.stream import AudioStream
    from av.container import InputContainer

_BUFFER_BYTES = 1 << 16  # per read of the recording
_GAP_S = 0.03  # timestamps of containers are rounded, and those of live recorders vary


class Refused(Exception):
    """The recording cannot be decoded.

    Args:
        kind: `invalid`, `silent` (no sound), `empty`, `unsupported`, `memory` or `broken` (this program failed).
        message: What is wrong.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


class Recording:
    """The recording behind descriptor 0, as the file object that PyAV needs."""

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        return os.read(0, size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move; FFmpeg also asks for positions outside the file, which fail."""
        return os.lseek(0, offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return os.lseek(0, 0, os.SEEK_CUR)


def send(out: BinaryIO, kind: bytes, *parts: bytes | memoryview) -> None:
    """Write one message; blocks while the parent does not read."""
    out.write(kind + struct.pack("<I", sum(len(part) for part in parts)))
    for part in parts:
        out.write(part)


def send_facts(out: BinaryIO, kind: bytes, facts: dict[str, Any]) -> None:
    """Write a message with named values, at once."""
    send(out, kind, json.dumps(facts).encode())
    out.flush()


def end_with_parent(descriptor: int) -> None:
    """Let the system end this process when the other end of this pipe closes, whatever this process is doing then."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO, signal.SIGXCPU})
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([descriptor], [], [], 0)[0]:  # it closed before
        sys.exit(1)


def prefer_in_oom() -> None:
    """Let the system end this process, not the server, if the memory of the machine or container runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:  # not Linux
        pass


def give_up_rights(memory_bytes: int, cpu_s: int) -> None:
    """Set the limits; none of them can be raised again. A system without one of them goes without it."""
    memory = "RLIMIT_DATA" if sys.platform == "linux" else "RLIMIT_AS"  # the former does not count shared libraries
    wanted = {memory: memory_bytes, "RLIMIT_CPU": cpu_s, "RLIMIT_CORE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0}
    wanted["RLIMIT_NOFILE"] = 0  # those that are open stay open
    for name, value in wanted.items():
        spare = 1 if name == "RLIMIT_CPU" else 0  # at the lower limit it ends with SIGXCPU, which tells the reason
        try:
            resource.setrlimit(getattr(resource, name), (value, value + spare))
        except (AttributeError, ValueError, OSError):
            continue


class Decoding:
    """Decodes the default sound track and counts what is lost.

    Args:
        out: Where the messages go.
        container: The opened recording.
        order: What the parent wants.
    """

    def __init__(self, out: BinaryIO, container: InputContainer, order: dict[str, Any]) -> None:
        self._out, self._container = out, container
        self._sample_formats: list[str] = order["sample_formats"]
        self._stream = self._choose(container, frozenset(order["codecs"]))
        self._first: tuple[int, str, int] | None = None  # rate, layout and channels of the first frame
        self._now: tuple[int, str] | None = None  # rate and layout of the latest frame
        self._resampler: AudioResampler | None = None
        self._expected_s: float | None = None  # timestamp that the next frame should have
        self._may_skip = False  # after a packet that was not decoded
        self.frames = self.packets = self.failed = self.gaps = self.changes = 0
        self.failed_s = self.gaps_s = 0.0
        self.last_failed = self.read_failed = False

    @staticmethod
    def _choose(container: InputContainer, codecs: frozenset[str]) -> AudioStream:
        """Return the default sound track, or the first one that can be decoded."""
        tracks = container.streams.audio
        if not tracks:
            raise Refused("silent", "pictures only" if container.streams.video else "no tracks")
        best = container.streams.best("audio")
        names = []
        for stream in sorted(tracks, key=lambda track: track is not best):
            context = stream.codec_context
            if context is not None and context.codec.name in codecs:
                context.thread_count = 1  # RLIMIT_NPROC also counts threads
                return stream
            names.append("" if context is None else context.codec.name)
        raise Refused("unsupported", names[0])

    def run(self) -> None:
        """Decode to the end."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except (av.error.FFmpegError, OSError):
                self.read_failed = True
                break
            if packet is None:
                break
            frames: list[AudioFrame] = []
            try:
                frames = packet.decode()
                failed = packet.is_corrupt or any(frame.is_corrupt for frame in frames)
            except MemoryError:
                raise
            except av.error.FFmpegError:
                failed = True
            if packet.size:  # the last one is empty, to flush the decoder
                self._count(failed, float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0)
            for frame in frames:
                self._take(frame)
        if self._resampler is not None:
            self._write_all(self._resampler.resample(None))
        self._finish()

    def _count(self, failed: bool, duration_s: float) -> None:
        """Count a packet."""
        self.packets += 1
        self.last_failed = failed
        if failed:
            self.failed += 1
            self.failed_s += duration_s
            self._may_skip = True

    def _take(self, frame: AudioFrame) -> None:
        """Write a frame, converted if its rate or channels are not those of the first one."""
        if frame.samples == 0:
            return
        layout = (frame.sample_rate, frame.layout.name)
        if self._first is None:
            self._first = (*layout, frame.layout.nb_channels)
            self._now = layout
            self._send_header()
        self._check_time(frame)
        if layout != self._now:
            self._change(layout)
        if self._resampler is not None:
            frame.pts = None
            self._write_all(self._resampler.resample(frame))
        else:
            self._write(frame)

    def _change(self, layout: tuple[int, str]) -> None:
        """Note that the recording changes its rate or channels, and convert from here on."""
        import av

        assert self._first is not None
        self.changes += 1
        if self._resampler is not None:
            self._write_all(self._resampler.resample(None))
        rate_hz, name, _ = self._first
        is_same = layout == (rate_hz, name)
        self._resampler = None if is_same else av.AudioResampler(format="flt", layout=name, rate=rate_hz)
        self._now = layout

    def _check_time(self, frame: AudioFrame) -> None:
        """Count the gaps that the timestamps of the container leave."""
        if frame.pts is None or frame.time_base is None:
            return
        start_s = float(frame.pts * frame.time_base)
        if self._expected_s is not None and not self._may_skip and start_s > self._expected_s + _GAP_S:
            self.gaps += 1
            self.gaps_s += start_s - self._expected_s
        self._may_skip = False
        self._expected_s = start_s + frame.samples / frame.sample_rate

    def _write_all(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            self._write(frame)

    def _write(self, frame: AudioFrame) -> None:
        """Write the samples of a frame as they are."""
        count = frame.samples * frame.format.bytes * (1 if frame.format.is_planar else frame.layout.nb_channels)
        planes = [memoryview(plane)[:count] for plane in frame.planes]
        send(self._out, b"F", bytes([self._sample_formats.index(frame.format.name)]), *planes)
        self.frames += frame.samples

    def _send_header(self) -> None:
        assert self._first is not None
        rate_hz, _, channels = self._first
        facts = {
            "rate_hz": rate_hz,
            "channels": channels,
            "codec": self._stream.codec_context.codec.canonical_name,
            "tracks": len(self._container.streams.audio),
            "length_s": self._length_s(),
        }
        send_facts(self._out, b"H", facts)

    def _length_s(self) -> float | None:
        """Return the length of the track; for some formats, FFmpeg estimates it from the bit rate."""
        stream, container = self._stream, self._container
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if len(container.streams) == 1 and container.duration:
            return container.duration / 1e6
        hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # Matroska: 00:00:04.008000000
        minutes, _, seconds = rest.partition(":")
        try:
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        except ValueError:
            return None

    def _finish(self) -> None:
        if self._first is None:
            raise Refused("empty", f"none of {self.packets} packets could be decoded")
        totals = ("frames", "packets", "failed", "failed_s", "last_failed", "gaps", "gaps_s", "changes", "read_failed")
        send_facts(self._out, b"E", {name: getattr(self, name) for name in totals})


def decode(out: BinaryIO, order: dict[str, Any]) -> None:
    """Decode the recording.

    Raises:
        Refused: It cannot be decoded.
    """
    sys.path += order["path"]  # only where PyAV is: the program runs without the site's packages
    try:
        import av
        import av.error
        import av.subtitles.stream
        import av.video.stream  # PyAV imports both when it meets such a track, which is not possible later
    except ImportError as error:
        raise Refused("broken", f"PyAV cannot be imported ({error})") from error
    av.logging.set_level(None)
    options = {"protocol_whitelist": "none", "format_whitelist": order["demuxer"]}
    options["codec_whitelist"] = ",".join(order["codecs"])
    give_up_rights(order["memory_bytes"], order["cpu_s"])
    try:
        container = av.open(
            Recording(),
            mode="r",
            format=order["demuxer"],
            options=order["options"],
            container_options=options,
            buffer_size=_BUFFER_BYTES,
            metadata_errors="replace",
        )
        Decoding(out, container, order).run()
    except MemoryError as error:
        raise Refused("memory", "") from error
    except av.error.FFmpegError as error:
        raise Refused("invalid", error.strerror or type(error).__name__) from error


def main() -> None:
    """Decode, and report what went wrong."""
    order = json.loads(sys.argv[1])
    end_with_parent(order["parent"])
    prefer_in_oom()
    out = os.fdopen(1, "wb", buffering=_BUFFER_BYTES, closefd=False)
    try:
        decode(out, order)
    except Refused as refused:
        send_facts(out, b"X", {"kind": refused.kind, "message": refused.message})
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:
        send_facts(out, b"X", {"kind": "broken", "message": f"{type(error).__name__}: {error}"})
    os._exit(0)  # at once: the memory of a hostile recording is not worth a tidy end


if __name__ == "__main__":
    main()
