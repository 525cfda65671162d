"""Measure what a live message costs, compare it with its floor, and show the parts it is made of.

    python benchmarks/bench_chunk.py [--streams 200] [--seconds 8] [--turns 3] [--steps-in auto] [--record]

The floor is what no service can do without: the bare model at a batch of 64, and a bare WebSocket server (picows) that
receives the same bytes and answers with as many. Server, echo and model alternate in each turn, so that changes of the
machine's speed affect all of them; figures are medians of CPU time per message of 100 ms at 16 kHz.

The parts are measured in this process with the mean batch that the server had: model, features, the rest of the
engine's step (state, read-out), and levels and losses of as many channels as there are streams. `connection` is the
bare server; `rest` is what remains of the whole.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from bench_against import speech
from bench_engine import sounds, stepper
from numpy.typing import NDArray
from recording import machine, markdown, record

from speech_qc.audio.features import FrontEnd
from speech_qc.capacity.host import Host, allow_open_files, free_port, started_server
from speech_qc.capacity.trial import Conditions, Target, run_trial
from speech_qc.engine import OnnxRunner
from speech_qc.engine.step import chunk_samples
from speech_qc.pipeline.channel_meter import ChannelMeter, MeterPool
from speech_qc.pipeline.factory import LIVE_LANE, make_lanes, make_runner
from speech_qc.settings import Settings

FLOOR_BATCH = 64
CHUNK_SAMPLES = 1600
START_S = 10.0
PARTS = ("model", "features", "rest of the step", "levels and losses", "connection", "rest")
BAR = 60
"""Characters of the picture for the whole message."""

ANSWER = ",".join(f'"label_{index:02}":[{",".join(["0.12345"] * 5)}]' for index in range(15))
"""Five frames of fifteen labels, as long as those of the service."""


def main() -> None:
    """Measure and print Markdown; with `--echo`, be the bare server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200, help="number of live streams")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time of a server in each turn")
    parser.add_argument("--turns", type=int, default=3, help="number of turns")
    parser.add_argument("--steps-in", default="auto", help="SPEECHQC_STEPS_IN of the server: auto, loop or thread")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    parser.add_argument("--echo", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        serve_echo(options.echo)
        return
    about = machine()
    text = measured(options)
    print(text)
    if options.record:
        record("cost of a live message", about, text)


def measured(options: argparse.Namespace) -> str:
    """Run all turns and return the tables."""
    allow_open_files(options.streams + 256)
    settings = Settings(device="cpu")
    runner = make_runner(settings)
    floor_model = model_work(runner, FLOOR_BATCH)
    wholes, echoes, models, batches, lags = [], [], [], [], []
    conditions, audio = Conditions(100, 100, options.seconds), speech().tobytes() * 8
    for _ in range(options.turns):
        models.append(chunk_us(floor_model, FLOOR_BATCH))
        with started_server(options.streams + 16, device="cpu", steps_in=options.steps_in) as host:
            target = Target.of(host)
            trial = run_trial(target, options.streams, conditions, audio=audio)
        wholes.append(message_us(trial.server_cpu, options.streams))
        batches.append(trial.batch or 1.0)
        lags.append(trial.lag_ms[3])
        if trial.lost_frames or trial.failed:
            raise SystemExit(f"{trial.lost_frames} frames lost, {trial.failed} streams failed: {trial.reason}")
        with echo_server() as host:
            bare = Target(host, None, target.frame_samples, target.context_samples)
            echo = run_trial(bare, options.streams, conditions, audio=audio)
        echoes.append(message_us(echo.server_cpu, options.streams))
    batch = max(1, round(statistics.median(batches)))
    whole, echo_us, model_us = (statistics.median(values) for values in (wholes, echoes, models))
    parts = inner_parts(runner, settings, batch, options.streams)
    shares = [*parts, echo_us, whole - sum(parts) - echo_us]
    rows = [
        [name, f"{value:.0f}", f"{100 * value / whole:.0f} %", "#" * max(0, round(BAR * value / whole))]
        for name, value in zip(PARTS, shares, strict=True)
    ]
    summary = [[f"{options.streams}", f"{whole:.0f}", f"{model_us:.0f}", f"{echo_us:.0f}",
                f"{whole / (model_us + echo_us):.2f}", f"{batch}", f"{statistics.median(lags):.0f}"]]  # fmt: skip
    headings = ["streams", "CPU per message, µs", f"bare model, batch {FLOOR_BATCH}", "bare echo", "ratio to the floor",
                "mean batch", "p99 lag, ms"]  # fmt: skip
    return (
        f"One process, steps in `{options.steps_in}`; {options.seconds:g} s measured, {options.turns} turns.\n\n"
        f"{markdown(headings, summary)}\n\n{markdown(['part', 'µs', 'share', ''], rows)}"
    )


def message_us(cores: float | None, streams: int) -> float:
    """Return the CPU time of one message."""
    if cores is None:
        raise SystemExit("the CPU time of the server is not available on this machine: run this on Linux")
    return cores / (streams * 10) * 1e6


def chunk_us(work: Callable[[], object], count: int, seconds: float = 1.0) -> float:
    """Return the CPU time of `work` for each of `count` chunks."""
    work()
    turns, started = 0, time.process_time()
    while (spent := time.process_time() - started) < seconds:
        work()
        turns += 1
    return spent / turns / count * 1e6


def model_work(runner: OnnxRunner, batch: int) -> Callable[[], object]:
    """Return a call of the bare model with one chunk of each of `batch` streams."""
    spec = runner.contract.features
    features = FrontEnd(spec)(sounds(batch, CHUNK_SAMPLES + spec.overlap_samples))
    return partial(runner.run, features, np.zeros((batch, runner.contract.state_size), np.float32))


def inner_parts(runner: OnnxRunner, settings: Settings, batch: int, streams: int) -> list[float]:
    """Return the CPU time per chunk of the model, the features, the rest of a step, and levels and losses."""
    lane = next(lane for lane in make_lanes(settings) if lane.name == LIVE_LANE)
    spec = runner.contract.features
    samples = sounds(batch, chunk_samples(lane, spec))
    front_end = FrontEnd(spec)
    model_us = chunk_us(model_work(runner, batch), batch)
    features_us = chunk_us(partial(front_end, samples), batch)
    step = partial(stepper(runner, batch, pad=False).run, lane, list(range(batch)), list(samples))
    step_us = chunk_us(step, batch)
    return [model_us, features_us, max(0.0, step_us - model_us - features_us), metering_us(streams)]


def metering_us(streams: int) -> float:
    """Return the CPU time per chunk of levels and losses, each stream at another place of its piece."""
    audio: NDArray[np.float32] = np.tile(speech().astype(np.float32) / 32768.0, 8)
    pool = MeterPool()
    meters = [ChannelMeter(16_000, pool=pool) for _ in range(streams)]
    offsets = np.random.default_rng(0).integers(0, len(audio) // 2, streams).tolist()

    def advance(turns: range) -> None:
        for turn in turns:
            for meter, offset in zip(meters, offsets, strict=True):
                start = (offset + turn * CHUNK_SAMPLES) % (len(audio) - CHUNK_SAMPLES)
                meter.push(audio[start : start + CHUNK_SAMPLES])
            for meter in meters[turn % 4 :: 4]:  # a session collects up to 0.1 s after its piece is full
                meter.collect()

    for turn, meter in enumerate(meters):
        meter.push(audio[: turn % 4 * CHUNK_SAMPLES + 1])
    advance(range(30))
    started = time.process_time()
    advance(range(30, 90))
    return (time.process_time() - started) / (60 * streams) * 1e6


@contextmanager
def echo_server() -> Iterator[Host]:
    """Run the bare server in a process of its own."""
    port = free_port()
    running = subprocess.Popen([sys.executable, __file__, "--echo", str(port)], stdout=subprocess.PIPE)
    try:
        if running.stdout is None or running.stdout.readline() != b"ready\n":
            raise SystemExit("the bare server did not start: see its errors above")
        yield Host(f"http://127.0.0.1:{port}", running.pid)
    finally:
        running.kill()
        running.communicate()


def serve_echo(port: int) -> None:
    """Answer each binary message with a text as long as the service's scores, until the process is killed."""
    from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

    loop_factory = None
    try:
        import uvloop

        loop_factory = uvloop.new_event_loop
    except ImportError:
        pass
    answer = f',"start_s":1.0,"channels":[{{"channel":0,"frames":{{{ANSWER}}}}}]}}'.encode()

    class Echo(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            self.first = 0
            transport.send(WSMsgType.TEXT, b'{"type":"ready"}')

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.BINARY:
                frame.get_payload_as_bytes()
                transport.send(WSMsgType.TEXT, b'{"type":"scores","first_frame":%d' % self.first + answer)
                self.first += 5
            elif frame.msg_type == WSMsgType.TEXT:
                transport.send(WSMsgType.TEXT, b'{"type":"summary"}')
                transport.send_close(WSCloseCode.OK)
                transport.disconnect()

    async def serve() -> None:
        server = await ws_create_server(lambda _request: Echo(), "127.0.0.1", port)
        print("ready", flush=True)
        await server.serve_forever()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
