"""Speech with an audible background is set apart, and the room in its pauses becomes room tone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch")

from made_corpus import RATE_HZ, Float32, row, talk, write_manifest, write_sound

from training.corpora.__main__ import main
from training.corpora.clean import REJECTED, clean
from training.corpora.make import Limits
from training.corpora.manifest import Stem, read_manifest, validate
from training.corpora.pauses import BED_LEVEL_DBFS, background, erode, join_tones, read_marks, room_tones

SECONDS, VOICE_S = 4.0, 2.0


def spoken(floor_dbfs: float, seed: int = 0, *, pauses: bool = True) -> tuple[Float32, np.ndarray]:
    """Return two seconds of voice, then two of the room alone, and the marks of a perfect teacher."""
    voice = talk(SECONDS, 150.0, seed)
    if pauses:
        voice[int(VOICE_S * RATE_HZ) :] = 0.0
    room = np.random.default_rng(seed).normal(0.0, 10.0 ** (floor_dbfs / 20.0), voice.size)
    marks = np.where(np.arange(int(SECONDS * 50)) < VOICE_S * 50 if pauses else True, 255, 0).astype(np.uint8)
    return (voice + room).astype(np.float32), np.broadcast_to(marks, int(SECONDS * 50)).copy()


def corpus(folder: Path, **floors: float) -> Path:
    """Write one recording per speaker with the room at the given level."""
    rows, marks = [], {}
    for number, (speaker, floor) in enumerate(floors.items()):
        samples, marks[f"{speaker}.wav"] = spoken(floor, number, pauses=not speaker.startswith("busy"))
        write_sound(folder / f"{speaker}.wav", samples)
        rows.append(row(f"{speaker}.wav", "speech", seconds=str(SECONDS), language="cy", **{"class": "clean"}))
    write_manifest(folder, rows)
    np.savez(folder / "speech.npz", allow_pickle=False, **marks)
    return folder


def stems(folder: Path) -> dict[str, Stem]:
    return {stem.path: stem for stem in read_manifest(folder)}


def test_speech_is_judged_by_the_level_of_its_pauses(tmp_path: Path) -> None:
    account = clean(corpus(tmp_path, quiet=-75.0, loud=-45.0), 45.0, Limits())
    found = stems(tmp_path)
    assert (found["quiet.wav"].kind, found["loud.wav"].kind) == ("speech", "real_noisy")
    assert found["loud.wav"].sound_class == REJECTED
    assert account.kept["made"] == {"by quiet pauses": 1}
    assert account.left_out["made"] == {"by audible pauses": 1}
    assert validate(list(found.values()), tmp_path) == []


def test_the_range_is_the_difference_of_speech_and_pauses() -> None:
    samples, marks = spoken(-60.0)
    measured = background(samples, marks)
    assert measured is not None
    assert measured.pause_dbfs == pytest.approx(-60.0, abs=0.5)
    assert measured.speech_dbfs == pytest.approx(10 * np.log10(np.square(samples[: 2 * RATE_HZ]).mean()), abs=0.5)


def test_speech_without_pauses_is_judged_by_floor_and_range(tmp_path: Path) -> None:
    account = clean(corpus(tmp_path, busy=-75.0, busy_loud=-40.0), 45.0, Limits())
    assert account.kept["made"] == account.left_out["made"] == {"without pauses, by floor and range": 1}
    assert stems(tmp_path)["busy_loud.wav"].kind == "real_noisy"


def test_room_tone_is_cut_from_what_is_kept_and_what_is_left_out(tmp_path: Path) -> None:
    clean(corpus(tmp_path, quiet=-75.0, loud=-45.0), 45.0, Limits())
    beds = [stem for stem in stems(tmp_path).values() if stem.kind == "bed"]
    assert {stem.group for stem in beds} == {"made/quiet", "made/loud"}
    for stem in beds:
        samples, rate = soundfile.read(tmp_path / stem.path)
        assert rate == RATE_HZ
        assert len(samples) / rate == pytest.approx(stem.seconds, abs=0.01)
        assert 1.5 < stem.seconds < VOICE_S
        assert 10 * np.log10(np.square(samples).mean()) == pytest.approx(BED_LEVEL_DBFS, abs=0.3)


def test_a_second_run_gives_the_same_manifest(tmp_path: Path) -> None:
    clean(corpus(tmp_path, quiet=-75.0, loud=-45.0), 45.0, Limits())
    first = (tmp_path / "manifest.csv").read_bytes()
    clean(tmp_path, 45.0, Limits())
    assert (tmp_path / "manifest.csv").read_bytes() == first


def test_a_wider_limit_takes_back_what_a_narrow_one_left_out(tmp_path: Path) -> None:
    clean(corpus(tmp_path, loud=-55.0), 45.0, Limits())
    assert stems(tmp_path)["loud.wav"].kind == "real_noisy"
    clean(tmp_path, 20.0, Limits())
    assert stems(tmp_path)["loud.wav"].kind == "speech"


def test_beds_only_leaves_the_speech_alone(tmp_path: Path) -> None:
    assert main(["clean", str(corpus(tmp_path, loud=-45.0)), "--beds-only"]) == 0
    assert {stem.kind for stem in stems(tmp_path).values()} == {"speech", "bed"}


def test_a_linked_folder_is_cleaned_and_the_other_one_is_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = corpus(tmp_path / "pool", loud=-45.0), tmp_path / "part"
    clean(folder, 45.0, Limits())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = ["link", "--from", str(folder), "--out", str(out)]
    assert main(words) == main(words) == 0
    assert set(stems(out)) == {"loud.wav"}  # room tone is cut anew
    (out / "speech.npz").write_bytes((folder / "speech.npz").read_bytes())
    clean(out, 20.0, Limits())
    assert stems(out)["loud.wav"].kind == "speech"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    capsys.readouterr()
    assert main(["link", "--from", str(folder), "--out", str(folder)]) == 1
    assert "no files of its own" in " ".join(capsys.readouterr().out.split())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_speech_that_the_teacher_has_not_heard_is_set_apart(tmp_path: Path) -> None:
    corpus(tmp_path, quiet=-75.0)
    np.savez(tmp_path / "speech.npz", allow_pickle=False, **{"another.wav": np.zeros(3, np.uint8)})
    account = clean(tmp_path, 45.0, Limits())
    assert list(account.left_out["made"]) == ["unknown to the teacher: run training/vad_teacher.py"]


def test_without_the_teachers_file_the_command_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus(tmp_path, quiet=-75.0)
    (tmp_path / "speech.npz").unlink()
    assert main(["clean", str(tmp_path)]) == 1
    assert "run training/vad_teacher.py" in " ".join(capsys.readouterr().out.split())


def test_room_tone_holds_no_click_and_no_digital_silence() -> None:
    marks = np.zeros(100, np.uint8)
    room = np.random.default_rng(1).normal(0.0, 0.001, 2 * RATE_HZ).astype(np.float32)
    assert [len(piece) for piece in room_tones(room, RATE_HZ, marks)] == [2 * RATE_HZ]
    clicked, gated = room.copy(), room.copy()
    clicked[RATE_HZ] = 0.1
    gated[RATE_HZ : RATE_HZ + 1_600] = 0.0
    assert [len(piece) for piece in room_tones(clicked, RATE_HZ, marks)] == [50 * 320, 49 * 320]
    assert [len(piece) for piece in room_tones(gated, RATE_HZ, marks)] == [50 * 320, 45 * 320]
    assert max(np.abs(piece).max() for piece in room_tones(clicked, RATE_HZ, marks)) < 0.2
    assert room_tones(np.zeros(2 * RATE_HZ, np.float32), RATE_HZ, marks) == []


def test_room_tone_keeps_away_from_speech_and_short_pauses() -> None:
    marks = np.full(100, 255, np.uint8)
    marks[20:80] = 0  # 1.2 s, of which the margins leave 0.88 s
    room = np.random.default_rng(1).normal(0.0, 0.001, 2 * RATE_HZ).astype(np.float32)
    (piece,) = room_tones(room, RATE_HZ, marks)
    assert len(piece) == 44 * 320
    marks[20:45] = 255
    assert room_tones(room, RATE_HZ, marks) == []


def test_room_tone_of_a_telephone_recording_is_cut_at_its_own_rate() -> None:
    room = np.random.default_rng(1).normal(0.0, 0.001, 16_000).astype(np.float32)
    (piece,) = room_tones(room, 8_000, np.zeros(100, np.uint8))
    assert len(piece) == 16_000


def test_joined_pieces_have_no_dip_at_the_seam() -> None:
    pieces = [np.random.default_rng(n).normal(0.0, 0.03, RATE_HZ).astype(np.float32) for n in range(4)]
    joined = join_tones(pieces, RATE_HZ)
    level = 10 * np.log10(np.square(joined[: len(joined) // 320 * 320]).reshape(-1, 320).mean(axis=1))
    assert len(joined) == 4 * RATE_HZ - 3 * 320
    assert level.max() - level.min() < 3.0


def test_runs_shrink_at_both_ends_except_at_the_recordings_ends() -> None:
    mask = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1], dtype=bool)
    assert erode(mask, 2).tolist() == [True] + [False] * 5 + [True] + [False] * 5
    assert erode(mask, 1).tolist() == [bool(x) for x in (1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1)]


def test_marks_are_read_as_they_were_written(tmp_path: Path) -> None:
    corpus(tmp_path, quiet=-75.0)
    marks = read_marks(tmp_path)["quiet.wav"]
    assert marks.dtype == np.uint8
    assert len(marks) == SECONDS * 50
