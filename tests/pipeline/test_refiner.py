"""Music and clipping that are a tone are dropped, and every decision is the same for any chunk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signals import voice, white_noise
from speech_qc.audio.tones import FRAME
from speech_qc.contract import LABEL_CATALOG, LabelSpec, ModelContract
from speech_qc.pipeline.refiner import BEFORE, TOGETHER, EventRefiner
from speech_qc.scoring.events import Event, EventTracker
from speech_qc.scoring.reading import ScoreReader

RATE_HZ = 16_000
SECONDS = 6.0
TIME = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
LIMITS = {"probability": {"enter": 0.6, "exit": 0.4}, "db": {"low": -15.0, "high": 45.0}, "mos": {"low": 1, "high": 5}}
CONTRACT = ModelContract(
    name="test",
    version="1.0.0",
    labels=tuple(LabelSpec(name=n, family=f, kind=k, **LIMITS[k]) for n, (f, k) in LABEL_CATALOG.items()),  # type: ignore[arg-type]
    lookahead_frames=2,
    state_size=8,
)


READER = ScoreReader(CONTRACT)


def refined(samples, found: dict[str, tuple[int, int]], chunk: int = 5, **options) -> tuple[list[Event], EventRefiner]:
    """Track labels that score in these frames, and return the announced events that have ended."""
    samples = samples.astype(np.float32)
    frames = len(samples) // FRAME
    scores = np.zeros((frames, len(CONTRACT.labels)), np.float32)
    for label, (start, stop) in found.items():
        scores[start:stop, CONTRACT.index(label)] = 0.9
    tracker, refiner = EventTracker(CONTRACT), EventRefiner(CONTRACT, **options)
    begun: set[int] = set()
    ended: list[Event] = []
    for start in range(0, frames, chunk):
        part = scores[start : start + chunk]
        done = start + chunk >= frames
        news = tracker.push(part, np.full(len(part), -30, np.float32))
        news = news + (tracker.finish() if done else [])
        assert refiner.first_needed >= (start - TOGETHER - BEFORE) * FRAME - 160
        for update in refiner.refine(start, READER.read_one(part), news, lambda a, b: samples[a:b], done=done):
            if update.phase == "begin":
                begun.add(update.event.event_id)
            else:
                assert update.event.event_id in begun, "an event ends after it has begun"
                ended.append(update.event)
    assert begun == {event.event_id for event in ended}
    return sorted(ended, key=lambda event: event.event_id), refiner


def labels(samples, **found: tuple[int, int]) -> list[str]:
    return [event.label for event in refined(samples, found)[0]]


def notes(lowest_hz: float = 220) -> np.ndarray:
    """Generate a melody with chords: a new one every 0.35 s."""
    rng = np.random.default_rng(4)
    sound = np.zeros(len(TIME))
    for start in range(0, len(TIME), 5600):
        part = slice(start, start + 5600)
        root = lowest_hz * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
        for interval in (0, 4, 7):
            for n in (1, 2, 3):
                sound[part] += 0.05 / n * np.sin(2 * np.pi * root * 2 ** (interval / 12) * n * TIME[part])
    return sound


HUM = sum(0.03 / n * np.sin(2 * np.pi * 50 * n * TIME) for n in (1, 2, 3))
TONE = 0.1 * np.sin(2 * np.pi * 1000 * TIME)
SPEECH = voice(SECONDS) + white_noise(SECONDS, level_dbfs=-70)


@pytest.mark.parametrize(
    "samples",
    [TONE, HUM, 0.1 * (np.sin(2 * np.pi * 440 * TIME) + np.sin(2 * np.pi * 480 * TIME)), SPEECH + TONE, SPEECH + HUM],
    ids=["tone", "hum", "ring-back", "tone under speech", "hum under speech"],
)
def test_music_does_not_stand_beside_a_tone(samples):
    assert labels(samples, tone=(10, 290), music=(20, 280)) == ["tone"]


@pytest.mark.parametrize("onset", range(60, 76, 3))
def test_a_short_stretch_of_hum_is_no_music_but_one_of_bass_is(onset):
    """Of an event of 0.64 s, two long windows can be judged, wherever it begins."""
    assert labels(SPEECH + HUM, tone=(10, 290), music=(onset, onset + 36)) == ["tone"]
    assert labels(notes(lowest_hz=49), music=(onset, onset + 36)) == ["music"]


def test_music_stays_music_even_if_the_model_hears_a_tone_in_it():
    assert labels(notes(), tone=(10, 290), music=(20, 280)) == ["tone", "music"]
    assert labels(notes(), music=(20, 280)) == ["music"]


def test_the_frames_of_dropped_music_are_known():
    _, refiner = refined(TONE, {"tone": (10, 290), "music": (20, 280)})
    assert refiner.dropped_frames == {"music": 260}


def test_an_intact_tone_and_an_offset_are_not_clipped():
    assert labels(TONE, tone=(10, 290), clipping=(20, 280)) == ["tone"]
    assert labels(np.full(len(TIME), 0.3) + 1e-3 * SPEECH, clipping=(20, 280)) == []


def test_clipped_tones_and_clipped_speech_stay_clipped():
    assert labels(np.clip(8 * TONE, -0.5, 0.5), tone=(10, 290), clipping=(20, 280)) == ["tone", "clipping"]
    assert labels(np.clip(8 * SPEECH, -0.5, 0.5), clipping=(20, 280)) == ["clipping"]


def test_a_tone_event_has_its_detail_at_its_end():
    (event,), _ = refined(TONE, {"tone": (10, 290)})
    assert event.detail is not None and event.detail.kind == "whistle"
    assert event.detail.frequencies_hz == pytest.approx((1000,), abs=1)


@pytest.mark.parametrize("chunk", [1, 3, 40, 400])
def test_chunks_change_nothing(chunk):
    samples = np.concatenate([TONE[:48_000], notes()[48_000:]]) + 0.3 * SPEECH
    found = {"tone": (5, 200), "music": (30, 290), "clipping": (60, 64)}
    assert refined(samples, found, chunk)[0] == refined(samples, found)[0]


SCENE_FRAMES, RATE_HZ = 200, 16_000


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sound with tones that begin and end at random, and scores that follow them, more or less."""
    rng = np.random.default_rng(seed)
    samples = 0.05 * voice(SCENE_FRAMES * FRAME / RATE_HZ, seed=seed)
    scores = rng.uniform(0.0, 0.05, (SCENE_FRAMES, len(CONTRACT.labels))).astype(np.float32)
    for label in ("tone", "music", "clipping", "noise", "music", "clipping"):
        first, count = int(rng.integers(0, SCENE_FRAMES - 20)), int(rng.integers(8, 90))
        scores[first : first + count, CONTRACT.index(label)] = rng.uniform(0.6, 1.0)
        if rng.random() < 0.6:
            span = slice(first * FRAME, (first + count) * FRAME)
            time = np.arange(len(samples[span])) / RATE_HZ
            samples[span] += 0.2 * np.sin(2 * np.pi * rng.choice([440.0, 1000.0, 50.0]) * time)
    return samples.astype(np.float32), scores


def updates(samples: np.ndarray, scores: np.ndarray, sizes: list[int]) -> list[tuple[str, object]]:
    tracker, refiner = EventTracker(CONTRACT), EventRefiner(CONTRACT)
    total = len(scores)
    level = np.full(total, -30.0, np.float32)
    found, first, turn = [], 0, 0
    while first < total:
        stop = min(total, first + sizes[turn % len(sizes)])
        news = tracker.push(scores[first:stop], level[first:stop])
        if stop == total:
            news = news + tracker.finish()
        view = lambda start, end: samples[max(0, start) : end]  # noqa: E731
        found += refiner.refine(first, READER.read_one(scores[first:stop]), news, view, done=stop == total)
        first, turn = stop, turn + 1
    return [(update.phase, update.event) for update in found]


@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 120), min_size=1, max_size=3))
@settings(max_examples=60)
def test_updates_and_their_order_do_not_depend_on_blocks(seed: int, sizes: list[int]) -> None:
    samples, scores = scene(seed)
    assert updates(samples, scores, sizes) == updates(samples, scores, [SCENE_FRAMES]) == updates(samples, scores, [1])


def test_the_beginning_of_long_music_does_not_depend_on_blocks() -> None:
    frames = 3500
    samples = white_noise(frames * FRAME / RATE_HZ, level_dbfs=-40)
    scores = np.zeros((frames, len(CONTRACT.labels)), np.float32)
    scores[:, CONTRACT.index("music")], scores[:, CONTRACT.index("tone")] = 0.9, 0.5
    scores[2000:2100, CONTRACT.index("noise")] = 0.9
    found = [updates(samples, scores, [size]) for size in (50, frames)]
    assert found[0] == found[1]
    phase, event = found[0][0]
    assert isinstance(event, Event) and (phase, event.label) == ("begin", "noise")
