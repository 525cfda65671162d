"""Measure what is found between the legs of calls: echo, talk-over, one-way audio; and what it costs.

    python benchmarks/bench_calls.py FOLDER [--calls 100] [--hours 1] [--seed 1] [--record]

FOLDER is a corpus folder with a manifest, as for training. The conversations are made of its clean speech by
`conversations.py`, with a noise floor of -60 dBFS on both legs, sent as 8 kHz G.711 in pieces of 100 ms, and scored as
live legs are. A time to find something includes the wait for scores and for the half second of a record.

- `echo`: one leg returns on the other after 20 to 800 ms, 6 to 30 dB lower. `found` counts an echo of the right leg
  with a lag within 10 ms. `false` are calls without echo in which one is found.
- `talk-over`: `found` is the share of the times in which both talk for at least 0.6 s, and the error is that of the
  onset. `false` are those that begin elsewhere by more than half a second; backchannels last 0.2 to 0.45 s.
- `one-way audio`: one leg holds digital silence or comfort noise while the other party speaks, from the begin of the
  call or after a hold. `false` is counted in conversations with hold and mute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr
from conversations import RATE_HZ, Conversation, Float32, Talkers, add_echo, converse, hold, noise
from recording import machine, markdown, record

from speech_qc.audio.g711 import decode_mulaw, encode_mulaw
from speech_qc.calls.interaction import Interaction
from speech_qc.calls.interaction_events import InteractionEvent
from speech_qc.calls.meter import LegMeter
from speech_qc.calls.records import RECORD_FRAMES, AnyRecord
from speech_qc.pipeline.direct import DirectModel
from speech_qc.pipeline.factory import make_runner
from speech_qc.pipeline.session import Session
from speech_qc.settings import Settings

LINE_HZ = 8_000
HOPS = 10
LATENCY_S = 0.3
"""From a frame until its scores: the model's look-ahead, the chunk, and computation."""


class Calls:
    """Analyses conversations as live calls."""

    def __init__(self) -> None:
        self._model = DirectModel(make_runner(Settings()))
        self.analysed_s = self.spent_s = 0.0

    def records(self, samples: Float32) -> list[AnyRecord]:
        """Score one leg as 8 kHz G.711, and return its records."""
        line = decode_mulaw(encode_mulaw(soxr.resample(samples, RATE_HZ, LINE_HZ)))
        found: list[AnyRecord] = []
        meter = LegMeter(self._model.contract, found.append)
        session = Session(self._model.contract, LINE_HZ, reader=self._model.reader, on_heard=meter.heard)
        stepper = self._model.stepper(1)
        session.push(np.ascontiguousarray(line, np.float32))
        session.finish()
        while session.remaining_hops:
            hops = 400 if session.remaining_hops >= 400 else HOPS
            chunk = session.take(hops)
            assert chunk is not None
            update = session.accept(stepper.step([chunk], hops)[0])
            started_s = time.process_time()
            meter.scored(update.first_frame, update.scores)
            self.spent_s += time.process_time() - started_s
        meter.finish()
        return found

    def analyse(self, made: Conversation) -> tuple[list[InteractionEvent], list[tuple[float, InteractionEvent]]]:
        """Return all events, and each begin with the time at which it is told."""
        legs = [self.records(leg) for leg in made.legs]
        started_s = time.process_time()
        interaction = Interaction()
        told = list(_told(interaction, legs))
        interaction.close()
        self.spent_s += time.process_time() - started_s
        self.analysed_s += 2 * made.legs.shape[1] / RATE_HZ
        return interaction.events, told


def _told(interaction: Interaction, legs: list[list[AnyRecord]]) -> Iterator[tuple[float, InteractionEvent]]:
    for leg in range(2):
        interaction.begin(leg, 0)
    for place, pair in enumerate(zip(*legs, strict=True)):
        for leg, one in enumerate(pair):
            interaction.push(leg, one)
        for update in interaction.advance():
            if update.phase == "begin":
                yield (place + 1) * RECORD_FRAMES * 0.02 + LATENCY_S, update.event


def echoes(calls: Calls, talkers: Talkers, count: int, rng: np.random.Generator) -> list[list[str]]:
    """Count echoes found and missed, and false ones."""
    found = false = talk_overs = 0
    waits: list[float] = []
    errors: list[float] = []
    for _ in range(count):
        made = converse(talkers.pair(rng), 40.0, rng)
        leg, lag_s, loss_db = int(rng.integers(2)), rng.uniform(0.02, 0.8), rng.uniform(6, 30)
        true = len(made.talk_overs)
        add_echo(made, leg, lag_s, loss_db)
        events, told = calls.analyse(made)
        right = [e for e in events if e.kind == "echo" and e.leg == leg and e.echo and abs(e.echo.lag_s - lag_s) < 0.01]
        found += bool(right)
        if right and right[-1].echo:
            errors.append(abs(right[-1].echo.loss_db - loss_db))
            waits.append(next(at for at, e in told if e.kind == "echo" and e.leg == leg))
        talk_overs += max(0, sum(e.kind == "talk_over" for e in events) - true)
    for _ in range(count):
        events, _told_events = calls.analyse(converse(talkers.pair(rng), 40.0, rng))
        false += any(e.kind == "echo" for e in events)
    return [
        ["echo", "calls of 40 s with an echo", str(count)],
        ["echo", "found", f"{found / count:.1%}"],
        ["echo", "told after the call's begin, median and highest", f"{np.median(waits):.1f} and {max(waits):.1f} s"],
        [
            "echo",
            "error of `loss_db`, median and 95 %",
            "{:.1f} and {:.1f} dB".format(*np.percentile(errors, (50, 95))),
        ],
        ["echo", "talk-overs more than there are, in all of these calls", str(talk_overs)],
        ["echo", "false, in as many calls without echo", f"{false / count:.1%}"],
    ]


def talk_overs(calls: Calls, talkers: Talkers, hours: float, rng: np.random.Generator) -> list[list[str]]:
    """Compare talk-overs with those constructed."""
    errors: list[float] = []
    true = false = backchannels = heard = 0
    for _ in range(round(hours * 12)):
        made = converse(talkers.pair(rng), 300.0, rng)
        onsets = [e.onset_s for e in calls.analyse(made)[0] if e.kind == "talk_over"]
        true += len(made.talk_overs)
        backchannels += len(made.backchannels)
        for begin, end in made.talk_overs:
            hits = [onset for onset in onsets if begin - 0.5 <= onset < end]
            if hits:
                errors.append(min((hit - begin for hit in hits), key=abs))
        false += sum(not any(b - 0.5 <= onset < e for b, e in made.talk_overs) for onset in onsets)
        heard += sum(any(b - 0.2 <= onset <= b + 0.5 for b in made.backchannels) for onset in onsets)
    absolute = np.abs(errors)
    return [
        ["talk-over", f"in {hours:g} h of conversations", str(true)],
        ["talk-over", "found", f"{len(errors) / true:.1%}"],
        ["talk-over", "onset within 100 ms, of those found", f"{np.mean(absolute <= 0.1):.1%}"],
        ["talk-over", "error of the onset, median and 95 %", "{:.0f} and {:.0f} ms".format(
            *(1000 * np.percentile(absolute, (50, 95)))
        )],
        ["talk-over", "false, an hour", f"{false / hours:.1f}"],
        ["talk-over", f"of {backchannels} backchannels, taken for one", str(heard)],
    ]  # fmt: skip


def one_way(calls: Calls, talkers: Talkers, count: int, hours: float, rng: np.random.Generator) -> list[list[str]]:
    """Measure how soon a dead leg is found, and how often a leg that is not dead is taken for one."""
    waits: list[float] = []
    missed = 0
    for place in range(count):
        made = converse(talkers.pair(rng), 30.0, rng)
        dead, samples = place % 2, made.legs.shape[1]
        clips = talkers.pair(rng)[0]
        made.legs[1 - dead] = noise(samples, -60.0, rng)
        spoke_s = _talk(made.legs[1 - dead], clips, rng)
        made.legs[dead] = [np.zeros(samples, np.float32), noise(samples, (-50.0, -60.0, -70.0)[place % 3], rng)][
            place % 4 > 0
        ]
        told = [at for at, e in calls.analyse(made)[1] if e.kind == "one_way_audio" and e.leg == dead]
        missed += not told
        waits += [at - spoke_s for at in told[:1]]
    false = 0
    for _ in range(round(hours * 12)):
        made = converse(talkers.pair(rng), 300.0, rng)
        hold(made, talkers.music, rng)
        false += sum(e.kind == "one_way_audio" for e in calls.analyse(made)[0])
    return [
        ["one-way audio", "calls with a dead leg", str(count)],
        ["one-way audio", "found", f"{1 - missed / count:.1%}"],
        ["one-way audio", "told after the other party began to speak, median and highest", (
            f"{np.median(waits):.1f} and {max(waits):.1f} s"
        )],
        ["one-way audio", f"false, an hour, in {hours:g} h with hold and mute", f"{false / hours:.1f}"],
    ]  # fmt: skip


def _talk(leg: Float32, clips: Sequence[Float32], rng: np.random.Generator) -> float:
    """Let one party speak with pauses of up to half a second; return when it begins."""
    at = RATE_HZ
    while True:
        clip = clips[int(rng.integers(len(clips)))]
        if at + len(clip) > len(leg):
            return 1.0
        leg[at : at + len(clip)] += clip
        at += len(clip) + round(rng.uniform(0.1, 0.5) * RATE_HZ)


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calls", type=int, default=100, help="calls with echo, without, and with a dead leg, each")
    parser.add_argument("--hours", type=float, default=1.0, help="conversations for talk-over, and with hold and mute")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    about, rng = machine(), np.random.default_rng(options.seed)
    talkers, calls = Talkers(options.folder, 400, rng), Calls()
    rows = echoes(calls, talkers, options.calls, rng)
    rows += talk_overs(calls, talkers, options.hours, rng)
    rows += one_way(calls, talkers, options.calls, options.hours, rng)
    cost_ms = 1000 * calls.spent_s / calls.analysed_s
    rows.append(["cost", "CPU per second of a leg, without its scores", f"{cost_ms:.2f} ms"])
    text = markdown(("what", "figure", "value"), rows)
    print(text)
    if options.record:
        record("calls", about, text, {str(options.folder): "FOLDER"})


if __name__ == "__main__":
    main()
