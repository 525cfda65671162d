"""A process that inspects batches: `python -m speech_qc.archive.worker FD`, started by `local`.

A recording that crashes a decoder, or needs more memory than there is, ends this process and not the run.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""There is a worker for each core, so a library that starts threads of its own would only slow the others down."""


def main(connection: Connection) -> None:
    """Load the model, announce it, and inspect batches until the other end closes.

    The first message is what is asked (a JSON object); the answer is the identity, or `error` and a message. Then each
    message is a batch as an Arrow stream, and the answer its rows.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    import orjson

    from speech_qc.archive.asked import Asked
    from speech_qc.archive.inspecting import Batch, Inspector
    from speech_qc.archive.transfer import from_bytes, to_bytes
    from speech_qc.audio.native_stderr import keep_stderr
    from speech_qc.errors import SpeechQCError

    keep_stderr()
    try:
        inspector = Inspector(Asked(**orjson.loads(connection.recv_bytes())))
    except SpeechQCError as error:
        connection.send_bytes(orjson.dumps({"error": str(error)}))
        return
    identity = inspector.identity
    connection.send_bytes(orjson.dumps({name: getattr(identity, name) for name in identity.__slots__}))
    batches: SimpleQueue[Batch] = SimpleQueue()

    def take(content: bytes) -> None:
        batches.put(inspector.prepare(from_bytes(content)))

    Thread(target=_receive, args=(connection, take), daemon=True).start()
    while True:
        answer = to_bytes(inspector.inspect(batches.get()))
        connection.send_bytes(answer)


def _receive(connection: Connection, take: Callable[[bytes], None]) -> None:
    """Take batches at once, so that the other end never waits with a batch while this one waits with its rows."""
    while True:
        try:
            take(connection.recv_bytes())
        except (EOFError, OSError):  # the run has ended, or was killed: nobody wants the rows
            os._exit(0)


if __name__ == "__main__":
    os.environ.update(THREADS)
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)  # a decoder's process that outlives this one must not keep it open
    main(Connection(descriptor))
