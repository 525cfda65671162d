"""Each recipe reads a synthetic tree of its corpus: only names and lists, no audio is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.corpora.listings import ESC50_CLASSES, ESC50_LICENCES, FSD50K_CLASSES, licence_of
from training.corpora.manifest import KINDS, SPLITS, Stem
from training.corpora.recipes import RECIPES, Choice, FoundRecording, RecipeError, find, split_of

# Recipe: files of its tree, each with its expected values; None: the file is left out.
TREES: dict[str, dict[str, dict[str, str] | None]] = {
    "librispeech": {
        "LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac": {
            "speaker": "103",
            "split": "train",
            "language": "en",
        },
        "LibriSpeech/dev-other/116/288045/116-288045-0000.flac": {"speaker": "116", "split": "valid"},
        "LibriSpeech/test-clean/61/70968/61-70968-0000.flac": {"speaker": "61", "split": "test"},
        "LibriSpeech/extra/sound.flac": None,
    },
    "aishell": {
        "data_aishell/wav/train/S0002/BAC009S0002W0122.wav": {"speaker": "S0002", "split": "train", "language": "zh"},
        "data_aishell/wav/dev/S0724/BAC009S0724W0121.wav": {"speaker": "S0724", "split": "valid"},
    },
    "vctk": {
        "wav48_silence_trimmed/p225/p225_001_mic1.flac": {"speaker": "p225", "kind": "speech"},
        "wav48_silence_trimmed/p225/p225_001_mic2.flac": None,
        "old/wav48/p226/p226_001.wav": {"speaker": "p226"},
    },
    "common-voice": {
        "cv-corpus/ga-IE/clips/one.mp3": {"speaker": "speaker-of-one", "split": "train", "language": "ga-IE"},
        "cv-corpus/ga-IE/clips/two.mp3": {"speaker": "speaker-of-two", "split": "valid"},
        "cv-corpus/ga-IE/clips/rejected.mp3": None,
    },
    "common-voice-clips": {
        "part/clips/common_voice_en_1.mp3": {"speaker": "speaker-of-one", "split": "train", "language": "en"},
        "part/clips/common_voice_en_2.mp3": {"speaker": "common_voice_en_2", "split": "train"},
        "part/clips/common_voice_en_3.mp3": None,  # listeners rejected it
        "part/clips/other.mp3": None,
    },
    "speechocean762": {
        "WAVE/SPEAKER0001/000010011.WAV": {"speaker": "SPEAKER0001", "original": "WAVE/SPEAKER0001/000010011"},
    },
    "speech-commands": {
        "left/0135f3f2_nohash_0.wav": {"speaker": "0135f3f2", "split": "train", "kind": "speech"},
        "left/aaaa0001_nohash_0.wav": {"speaker": "aaaa0001", "split": "valid"},
        "right/aaaa0001_nohash_1.wav": {"speaker": "aaaa0001", "split": "valid"},
        "_background_noise_/running_tap.wav": {"kind": "noise", "original": "running_tap", "speaker": ""},
    },
    "musan": {
        "musan/music/fma/music-fma-0001.wav": {"kind": "music", "sound_class": "music", "original": "music-fma-0001"},
        "musan/noise/free-sound/noise-free-sound-0000.wav": {"kind": "noise", "original": "noise-free-sound-0000"},
        "musan/speech/librivox/speech-librivox-0000.wav": {"kind": "speech", "speaker": "speech-librivox-0000"},
        "musan/speech/us-gov/speech-us-gov-0000.wav": {"kind": "real_noisy", "speaker": ""},
    },
    "demand": {
        "PCAFETER/ch01.wav": {"sound_class": "cafe", "original": "PCAFETER"},
        "DEMAND/TMETRO_16k/TMETRO/ch01.wav": {"sound_class": "train"},
        "PCAFETER/ch02.wav": None,
    },
    "esc-50": {
        "audio/1-100032-A-0.wav": {"sound_class": "dog", "split": "train", "licence": "CC-BY-3.0 (ESC-10 subset)"},
        "audio/5-9032-A-24.wav": {
            "sound_class": "coughing",
            "split": "valid",
            "licence": "CC-BY-NC-3.0 (NON-COMMERCIAL)",
            "original": "9032",
        },
        "audio/not-in-the-list.wav": None,
    },
    "esc-50-pieces": {
        "Binary_Drone_Audio/unknown/1-100032-A-00.wav": {
            "sound_class": "dog",
            "split": "train",
            "licence": "CC0 (authors in training/corpora/esc50_licences.csv)",
            "original": "1-100032-A-0",
        },
        "Binary_Drone_Audio/unknown/1-100038-A-140.wav": {"sound_class": "chirping_birds"},
        "Binary_Drone_Audio/unknown/5-141683-A-350.wav": {"sound_class": "washing_machine", "split": "valid"},
        "Binary_Drone_Audio/unknown/4-209698-A-370.wav": {"split": "valid"},  # its recording is in fold 5, too
        "Binary_Drone_Audio/unknown/5-209698-A-380.wav": {"split": "valid"},
        "Binary_Drone_Audio/unknown/1-16568-A-30.wav": None,  # CC BY-NC
        "Binary_Drone_Audio/unknown/1-47819-A-50.wav": None,  # CC Sampling+
        "Binary_Drone_Audio/unknown/doing_the_dishes000.wav": None,
        "Binary_Drone_Audio/yes_drone/B_S2_D1_067-bebop_000_.wav": None,
    },
    "fsd50k": {
        "FSD50K.dev_audio/10.wav": {"sound_class": "dog", "split": "train", "licence": "CC0-1.0", "original": "10"},
        "FSD50K.dev_audio/11.wav": {
            "kind": "music",
            "split": "valid",
            "licence": "CC-BY-NC-3.0 (NON-COMMERCIAL)",
        },
        "FSD50K.dev_audio/12.wav": None,  # with speech
        "FSD50K.eval_audio/13.wav": {"sound_class": "unlabelled", "split": "test"},
    },
    "rirs-noises": {
        "RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav": {
            "kind": "rir",
            "original": "smallroom/Room001",
        },
        "RIRS_NOISES/simulated_rirs/largeroom/Room001/Room001-00001.wav": {"original": "largeroom/Room001"},
        "RIRS_NOISES/real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav": {
            "kind": "rir",
            "original": "RVB2014_type1_rir_largeroom1",
        },
        "RIRS_NOISES/real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_near_angla.wav": {
            "original": "RVB2014_type1_rir_largeroom1",
        },
        "RIRS_NOISES/real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1_1.wav": {
            "kind": "noise",
            "sound_class": "room_background",
        },
        "RIRS_NOISES/real_rirs_isotropic_noises/air_type1_air_binaural_aula_carolina_1_1_90_3.wav": {"kind": "rir"},
        "RIRS_NOISES/pointsource_noises/noise-free-sound-0000.wav": {"original": "noise-free-sound-0000"},
    },
    "dns-challenge": {
        "datasets/clean/read_speech/book_00000_chp_0009_reader_06709_0.wav": {
            "speaker": "reader_06709",
            "language": "en",
        },
        "datasets_fullband/clean_fullband/vctk_wav48_silence_trimmed/p225/p225_001.wav": {"speaker": "p225"},
        "datasets/clean/emotional_speech/1001_DFA_ANG_XX.wav": {"speaker": "1001", "language": "en"},
        "datasets/clean/german_speech/CC_BY_SA/speaker7/one.wav": {"speaker": "CC_BY_SA/speaker7", "language": "de"},
        "datasets/clean/singing_voice/one.wav": None,
        "datasets/noise/door_Freesound_validated_361474_3.wav": {
            "kind": "noise",
            "original": "door_Freesound_validated_361474",
        },
        "datasets/impulse_responses/SLR26/simulated_rirs_16k/smallroom/Room001/Room001-00001.wav": {"kind": "rir"},
    },
    "folder": {
        "speech/anna/one.wav": {"kind": "speech", "speaker": "anna"},
        "noise/fan/one.ogg": {"kind": "noise", "sound_class": "fan"},
        "music/one.mp3": {"kind": "music"},
        "rir/hall.flac": {"kind": "rir"},
        "other/one.wav": None,
        "speech/anna/notes.txt": None,
    },
}
LISTS = {
    "cv-corpus/ga-IE/validated.tsv": (
        'client_id\tpath\tsentence\nspeaker-of-one\tone.mp3\t"a lone quote\nspeaker-of-two\ttwo.mp3\tb\n'
    ),
    "cv-corpus/ga-IE/dev.tsv": "client_id\tpath\tsentence\nspeaker-of-two\ttwo.mp3\tb\n",
    "part/validated.tsv": "client_id\tpath\tsentence\nspeaker-of-one\tcommon_voice_en_1.mp3\ta\n",
    "part/invalidated.tsv": "client_id\tpath\tsentence\nspeaker-of-six\tcommon_voice_en_3.mp3\ta\n",
    "validation_list.txt": "left/aaaa0001_nohash_0.wav\n",
    "testing_list.txt": "",
    "meta/esc50.csv": (
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n5-9032-A-24.wav,5,24,coughing,False,9032,A\n"
    ),
    "FSD50K.ground_truth/dev.csv": (
        'fname,labels,mids,split\n10,"Bark,Dog,Animal",m,train\n11,"Cough,Guitar,Music",m,val\n'
        '12,"Child_speech_and_kid_speaking,Speech,Human_voice",m,train\n'
    ),
    "FSD50K.ground_truth/eval.csv": 'fname,labels,mids\n13,"Something_new",m\n',
    "FSD50K.metadata/dev_clips_info_FSD50K.json": json.dumps(
        {
            "10": {"license": "http://creativecommons.org/publicdomain/zero/1.0/"},
            "11": {"license": "http://creativecommons.org/licenses/by-nc/3.0/"},
        }
    ),
}
LIST_OF = {"common-voice": "cv-", "common-voice-clips": "part/", "speech-commands": "_list.txt", "esc-50": "esc50",
           "fsd50k": "FSD50K"}  # fmt: skip


def plant(root: Path, name: str) -> None:
    """Write the empty files of a recipe's tree and its lists."""
    for path in TREES[name]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for path, text in LISTS.items():
        if name in LIST_OF and LIST_OF[name] in path:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")


def found(root: Path, name: str) -> dict[str, FoundRecording]:
    licence = "CC0-1.0" if name == "folder" else ""
    return {finding.path.relative_to(root).as_posix(): finding for finding in find(name, root, licence=licence)}


def test_every_recipe_has_a_tree() -> None:
    assert set(TREES) == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_finds_what_its_tree_holds(tmp_path: Path, name: str) -> None:
    plant(tmp_path, name)
    findings = found(tmp_path, name)
    assert set(findings) == {path for path, values in TREES[name].items() if values is not None}
    for path, values in TREES[name].items():
        for key, value in (values or {}).items():
            assert getattr(findings[path], key) == value, (path, key)


@pytest.mark.parametrize("name", RECIPES)
def test_every_finding_can_be_a_row(tmp_path: Path, name: str) -> None:
    plant(tmp_path, name)
    for finding in found(tmp_path, name).values():
        assert finding.kind in KINDS
        assert finding.split in SPLITS
        assert finding.licence
        assert finding.original
        assert finding.speaker or finding.kind != "speech"
        assert finding.sound_class


@pytest.mark.parametrize("name", RECIPES)
def test_no_speaker_and_no_recording_is_in_two_splits(tmp_path: Path, name: str) -> None:
    plant(tmp_path, name)
    splits: dict[str, set[str]] = {}
    for finding in found(tmp_path, name).values():
        splits.setdefault(finding.group, set()).add(finding.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("name", RECIPES)
def test_another_folder_is_refused_with_what_was_expected(tmp_path: Path, name: str) -> None:
    (tmp_path / "sound.wav").touch()
    with pytest.raises(RecipeError, match="does not look like") as caught:
        find(name, tmp_path)
    assert RECIPES[name].about in str(caught.value)


def test_a_folder_of_ones_own_needs_a_licence(tmp_path: Path) -> None:
    plant(tmp_path, "folder")
    with pytest.raises(RecipeError, match="--licence"):
        find("folder", tmp_path)


def test_source_licence_and_language_can_be_said(tmp_path: Path) -> None:
    plant(tmp_path, "folder")
    for finding in find("folder", tmp_path, source="mine", licence="CC0-1.0", language="cy"):
        assert (finding.source, finding.licence) == ("mine", "CC0-1.0")
        assert finding.language == ("cy" if finding.kind == "speech" else "")


def test_a_recording_has_the_same_split_in_every_corpus_that_holds_it(tmp_path: Path) -> None:
    plant(tmp_path / "a", "musan")
    plant(tmp_path / "b", "rirs-noises")
    both = [*find("musan", tmp_path / "a"), *find("rirs-noises", tmp_path / "b")]
    shared = {finding.split for finding in both if finding.original == "noise-free-sound-0000"}
    assert len(shared) == 1


def languages(root: Path) -> Path:
    """Write three languages; one speaker has recorded two of them."""
    for language, speakers in {"cy": ("ann", "both"), "hsb": ("both", "cid"), "ga-IE": ("dee",)}.items():
        (root / language / "clips").mkdir(parents=True)
        rows = [f"{speaker}\t{speaker}.mp3\ta\t{language}\n" for speaker in speakers]
        (root / language / "validated.tsv").write_text("client_id\tpath\tsentence\tlocale\n" + "".join(rows))
        for speaker in speakers:
            (root / language / "clips" / f"{speaker}.mp3").touch()
    return root


def test_several_languages_are_read_at_once_and_divided_by_speaker(tmp_path: Path) -> None:
    findings = find("common-voice", languages(tmp_path))
    assert {finding.language for finding in findings} == {"cy", "hsb", "ga-IE"}
    assert all(finding.split == split_of(finding.speaker) for finding in findings)


def test_an_excluded_language_takes_its_speakers_with_it(tmp_path: Path) -> None:
    choice = Choice(exclude_languages=frozenset({"hsb"}))
    findings = find("common-voice", languages(tmp_path), choice=choice)
    assert {finding.speaker for finding in findings} == {"ann", "dee"}


def test_an_excluded_speaker_is_left_out(tmp_path: Path) -> None:
    findings = find("common-voice", languages(tmp_path), choice=Choice(exclude_speakers=frozenset({"both"})))
    assert {finding.speaker for finding in findings} == {"ann", "cid", "dee"}


def test_what_is_excluded_must_exist(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"excluded language to occur, got xx: use one of cy, ga-IE, hsb"):
        find("common-voice", languages(tmp_path), choice=Choice(exclude_languages=frozenset({"xx"})))


def test_the_publishers_split_can_be_replaced_and_a_known_one_stays(tmp_path: Path) -> None:
    plant(tmp_path, "librispeech")
    choice = Choice(split_by_speaker=True, known_splits={"LibriSpeech/61": "valid"})
    splits = {finding.speaker: finding.split for finding in find("librispeech", tmp_path, choice=choice)}
    assert splits == {"103": split_of("103"), "116": split_of("116"), "61": "valid"}


def test_the_licence_table_of_esc50_has_free_licences_only() -> None:
    rows = [line.rsplit(",", 1) for line in ESC50_LICENCES.read_text(encoding="utf-8").splitlines()[1:]]
    assert {licence for _, licence in rows} == {"CC0", "CC-BY"}
    assert len({row[0].split(",")[0] for row in rows}) == len(rows) > 1000
    assert len(set(ESC50_CLASSES)) == 50


def test_about_a_tenth_is_held_out() -> None:
    assert 70 < sum(split_of(f"speaker {number}") == "valid" for number in range(1000)) < 130


@pytest.mark.parametrize(
    ("address", "licence"),
    [
        ("http://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/by-nc/4.0/", "CC-BY-NC-4.0 (NON-COMMERCIAL)"),
        ("http://creativecommons.org/licenses/sampling+/1.0/", "CC-Sampling+-1.0 (NON-COMMERCIAL)"),
        ("terms of my own", "terms of my own"),
    ],
)
def test_licence_addresses_are_named(address: str, licence: str) -> None:
    assert licence_of(address) == licence


def test_what_may_not_be_sold_is_seen_as_such_by_the_manifest() -> None:
    values: dict[str, Any] = {
        "path": "a", "kind": "noise", "sound_class": "dog", "source": "s", "speaker": "", "language": "",
        "sample_rate_hz": 16000, "seconds": 1.0, "split": "train", "original": "a",
    }  # fmt: skip
    commercial = {name: Stem(**values, licence=recipe.licence).commercial for name, recipe in RECIPES.items()}
    assert [name for name, free in commercial.items() if not free] == ["esc-50", "fsd50k"]


def test_no_class_holds_words() -> None:
    assert not {name for name in FSD50K_CLASSES if "peech" in name or "inging" in name}
