"""Runs `audio.media_worker`, the process in which FFmpeg decodes one recording, and reads what it writes.

FFmpeg's decoders are large, and recordings come from anyone. In a process of its own, a decoder that crashes, hangs or
takes too much memory costs one recording, and it can be killed at any time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import BinaryIO

from speech_qc.audio.media_formats import CODECS, SAMPLE_FORMATS, MediaFormat
from speech_qc.errors import InvalidAudio, PayloadTooLarge, UnsupportedFormat

INSTALL = "pip install 'speech-qc[media]'"
"""The command that installs PyAV."""

MEMORY_BYTES = 256 * 2**20
"""Data that the process may allocate, bytes. PyAV alone takes less than 40 MiB, and the index of a video less than
20 MiB per hour; a broken header can ask for any amount."""

CPU_S = 900
"""Processor time of one recording, seconds. Hours of audio take less than a minute; a broken file can loop forever."""

STALL_S = 60.0
"""Seconds without any output after which the process is killed; it starts and decodes a block in a fraction of one."""

_MOST_MESSAGE_BYTES = 64 * 2**20
_PIPE_BYTES = 1 << 20
_COPY_BYTES = 1 << 20
_WORKER = Path(__file__).with_name("media_worker.py")
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # no secrets


@cache
def pyav_folder() -> str | None:
    """Return the folder in which PyAV is installed; None without it. PyAV is never imported in this process."""
    spec = importlib.util.find_spec("av")
    origin = None if spec is None else spec.origin
    return None if origin is None else str(Path(origin).resolve().parent.parent)


class Spool(io.FileIO):
    """A file without a name, in memory on Linux and in the temporary folder elsewhere; it disappears when closed."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            super().__init__(os.memfd_create("recording", os.MFD_CLOEXEC), "r+b")
            return
        with tempfile.TemporaryFile(buffering=0) as file:
            super().__init__(os.dup(file.fileno()), "r+b")

    def copy(self, source: BinaryIO, count: int) -> None:
        """Append the first bytes of another file, at most `count` of them."""
        source.seek(0)
        while count > 0 and (content := source.read(min(count, _COPY_BYTES))):
            self.write(content)
            count -= len(content)

    def __del__(self) -> None:
        """Close the file; a dropped recording is no fault."""
        self.close()


def _aborted() -> InvalidAudio:
    return InvalidAudio("the decoding of the recording was aborted: send it again")


def start_worker(
    program: Path, order: dict[str, object], folder: str, stdin: int
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program that runs FFmpeg's libraries, without secrets, site packages or this process' terminal.

    Args:
        program: The file.
        order: What it shall do; it gets this as JSON, with the folder and the pipe that ends with this process.
        folder: Where PyAV is installed.
        stdin: Its standard input, a descriptor or `subprocess.PIPE`.

    Returns:
        The process, whose standard output is a pipe, and a descriptor; the system ends the process when it is closed.
    """
    life_read, life = os.pipe()
    order = {"path": [folder], "parent": life_read} | order
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), json.dumps(order)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(life_read,),
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            cwd="/",
            start_new_session=True,  # Ctrl-C in a terminal is for this process
            bufsize=0,
        )
    except BaseException:
        os.close(life)
        raise
    finally:
        os.close(life_read)
    return process, life


class MediaProcess:
    """One process, from its start to its end.

    One thread reads; any thread may call `close`, which unblocks the reader.

    Args:
        file: The recording, with a descriptor.
        media: Its format.

    Raises:
        UnsupportedFormat: PyAV is not installed, or the system has no way to limit a process.
    """

    def __init__(self, file: io.FileIO, media: MediaFormat) -> None:
        folder = pyav_folder()
        if folder is None or os.name != "posix":
            raise UnsupportedFormat(
                f"expected PyAV, which reads {media.container} recordings, got an installation without it: {INSTALL}, "
                "or convert the recording to WAV or FLAC"
            )
        self._lock = threading.Lock()  # held while the pipe is in use
        self._buffer = bytearray()
        self._life: int | None = None
        order = {
            "demuxer": media.demuxer,
            "options": dict(media.options),
            "codecs": CODECS,
            "sample_formats": SAMPLE_FORMATS,
            "memory_bytes": MEMORY_BYTES,
            "cpu_s": CPU_S,
        }
        file.seek(0)
        self._process, self._life = start_worker(_WORKER, order, folder, file.fileno())
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        with contextlib.suppress(AttributeError, OSError):
            import fcntl

            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)

    def read(self) -> tuple[bytes, bytes]:
        """Return the kind and the content of the next message.

        Raises:
            InvalidAudio: The process crashed, hangs or was closed.
            PayloadTooLarge: It used up its processor time.
        """
        with self._lock:
            head = self._take(5)
            count: int = struct.unpack_from("<I", head, 1)[0]
            if count > _MOST_MESSAGE_BYTES:
                raise InvalidAudio(f"FFmpeg's process sent a message of {count} bytes: convert the recording to WAV")
            return bytes(head[:1]), bytes(self._take(count))

    def _take(self, count: int) -> bytearray:
        while len(self._buffer) < count:
            if self._life is None:
                raise _aborted()
            if not self._poll.poll(STALL_S * 1000):
                self._process.kill()
                raise InvalidAudio(
                    f"expected FFmpeg to decode the recording, got nothing for {STALL_S:g} s: it may be damaged; "
                    "convert it to WAV or FLAC"
                )
            data = os.read(self._pipe.fileno(), _PIPE_BYTES)
            if not data:
                raise self._ended()
            self._buffer += data
        taken = self._buffer[:count]
        del self._buffer[:count]
        return taken

    def _ended(self) -> InvalidAudio | PayloadTooLarge:
        """Return the error for a process that ended without a last message."""
        status = self._process.wait()
        if self._life is None:  # another thread has killed it
            return _aborted()
        if status == -signal.SIGXCPU:
            return PayloadTooLarge(
                f"expected a recording that FFmpeg decodes in {CPU_S} s of processor time, got one that takes longer: "
                "cut it, or convert it to WAV or FLAC"
            )
        ended = f"signal {-status}" if status < 0 else f"exit code {status}"
        return InvalidAudio(
            f"expected FFmpeg to decode the recording, its process ended with {ended}: the recording may be damaged; "
            "convert it to WAV or FLAC"
        )

    def close(self) -> None:
        """Kill the process if it still runs; idempotent, and safe while another thread reads."""
        life, self._life = self._life, None
        if life is None:
            return
        os.close(life)
        self._process.kill()
        self._process.wait()
        with self._lock:  # a reader has got its end of file by now
            self._pipe.close()

    def __del__(self) -> None:
        """Kill the process if it was never closed."""
        if getattr(self, "_process", None) is not None:
            self.close()
