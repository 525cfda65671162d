"""The layout of each public corpus: one table of path patterns, and readers for corpora that provide lists.

A recipe maps a folder in its publisher's layout to findings: the kind, speaker, licence and split of every file. It
reads only names and lists; `make.py` opens the audio.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from training.corpora import listings

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff")
VALID_SHARE = 0.1  # of the speakers or recordings, if the publisher defines no split
Listing = Callable[[Path], Mapping[str, Mapping[str, str]]]


class RecipeError(Exception):
    """The folder does not have the layout of the corpus; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class FoundRecording:
    """One file of a corpus: the manifest values known before the file is opened."""

    path: Path
    kind: str
    source: str
    licence: str
    sound_class: str = ""
    speaker: str = ""
    language: str = ""
    split: str = ""
    original: str = ""
    further: tuple[Path, ...] = ()
    """Files that continue the recording, in order."""

    @property
    def group(self) -> str:
        """The unit that must stay in one split."""
        return self.speaker or self.original


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches files whose path below the corpus folder contains `pattern`.

    The named groups of the pattern are values of the finding and have the same names. `says` gives the values that all
    these files share. `turns` translates what a group matched (folder `dev-clean` to split `valid`); a value that is
    not in `turns` stays unchanged.
    """

    pattern: str
    says: Mapping[str, str]
    turns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The layout of one corpus. The first rule that matches a path applies; paths without a rule are left out."""

    source: str
    licence: str
    about: str
    rules: tuple[Rule, ...]
    listing: Listing | None = None
    """Values by path, from the publisher's lists; a file with an empty `kind` is left out."""
    only_listed: bool = False
    pieces: bool = False
    """Files with the same original are the pieces of one recording, in the order of their names."""
    range_db: float = 34.0
    """Speech with a smaller range between quiet and loud frames is left out; smaller for corpora with few pauses."""


SPLIT_FOLDERS = {"train": "train", "dev": "valid", "test": "test"}
DEMAND_PLACES = {
    "DKITCHEN": "dishes", "DLIVING": "living_room", "DWASHING": "washing_machine", "NFIELD": "field",
    "NPARK": "park", "NRIVER": "river", "OHALLWAY": "hallway", "OMEETING": "meeting", "OOFFICE": "office",
    "PCAFETER": "cafe", "PRESTO": "restaurant", "PSTATION": "subway_station", "SCAFE": "cafe", "SPSQUARE": "street",
    "STRAFFIC": "traffic", "TBUS": "bus", "TCAR": "car", "TMETRO": "train",
}  # fmt: skip
DNS_LANGUAGES = {
    "read": "en", "emotional": "en", "vctk_wav48_silence_trimmed": "en", "french": "fr", "german": "de",
    "italian": "it", "mandarin": "zh", "russian": "ru", "spanish": "es",
}  # fmt: skip
_ROOM = {"kind": "rir", "sound_class": "room_or_hall"}
_RIRS_RULES = (
    Rule(r"simulated_rirs\w*/(?P<original>\w+/Room\d+)/", _ROOM),
    Rule(
        r"real_rirs_isotropic_noises/(?P<original>[^/]*_noise_[^/]*)\.",
        {"kind": "noise", "sound_class": "room_background"},
    ),
    Rule(r"real_rirs_isotropic_noises/(?P<original>[^/]*?(?:_rir_[^/_]+|air_type1_air_[a-z]+_[a-z]+))[^/]*$", _ROOM),
    Rule(r"pointsource_noises/(?P<original>[^/]+)\.", {"kind": "noise", "sound_class": "unlabelled"}),
)
_DNS_SPEAKERS = (r".*(?P<speaker>reader_\d+)", r"(?:.*/)?(?P<speaker>p\d{3}|\d{4})_[^/]*$", r"(?P<speaker>.+)/[^/]+$")
_DNS_SPEECH = r"clean(?:_fullband)?/(?P<language>[a-z]+|vctk_wav48_silence_trimmed)(?:_speech|_data)?/"

RECIPES: dict[str, Recipe] = {
    "librispeech": Recipe(
        "LibriSpeech", "CC-BY-4.0", "folders train-clean-100, dev-clean … with SPEAKER/CHAPTER/*.flac",
        (Rule(r"(?:^|/)(?P<split>train|dev|test)-(?:clean|other)(?:-\d+)?/(?P<speaker>\d+)/\d+/",
              {"kind": "speech", "sound_class": "clean", "language": "en"}, {"split": SPLIT_FOLDERS}),),
    ),
    "aishell": Recipe(
        "AISHELL-1", "Apache-2.0", "data_aishell/wav/{train,dev,test}/SPEAKER/*.wav, unpacked",
        (Rule(r"wav/(?P<split>train|dev|test)/(?P<speaker>S\d+)/",
              {"kind": "speech", "sound_class": "clean", "language": "zh"}, {"split": SPLIT_FOLDERS}),), range_db=26.0,
    ),
    "vctk": Recipe(
        "VCTK", "CC-BY-4.0", "wav48_silence_trimmed/SPEAKER/*_mic1.flac or wav48/SPEAKER/*.wav",
        (Rule(r"wav48(?:_silence_trimmed/(?P<speaker>[ps]\d+)/[^/]*_mic1\.|/(?P<speaker_>[ps]\d+)/)",
              {"kind": "speech", "sound_class": "clean", "language": "en"}),),
    ),
    "common-voice": Recipe(
        "Common-Voice", "CC0-1.0", "folders of languages: clips/*.mp3 next to validated.tsv, perhaps dev.tsv, test.tsv",
        (Rule(r"(?:(?P<language>[^/]+)/)?clips/", {"kind": "speech", "sound_class": "clean"}),),
        listings.common_voice, only_listed=True,
    ),
    "common-voice-clips": Recipe(
        "Common-Voice", "CC0-1.0", "a part of one language: clips/common_voice_LANG_N.mp3, lists of some of them",
        (Rule(r"clips/(?P<speaker>common_voice_(?P<language>[A-Za-z-]+)_\d+)\.",
              {"kind": "speech", "sound_class": "clean", "split": "train"}),),
        listings.common_voice_clips,
    ),
    "speechocean762": Recipe(
        "speechocean762", "free for any purpose, commercial included (authors' README)", "WAVE/SPEAKERxxxx/*.WAV",
        (Rule(r"WAVE/(?P<speaker>SPEAKER\d+)/",
              {"kind": "speech", "sound_class": "clean", "language": "en (Mandarin L1)"}),),
    ),
    "speech-commands": Recipe(
        "Google-Speech-Commands", "CC-BY-4.0", "WORD/SPEAKER_nohash_N.wav, _background_noise_, validation_list.txt",
        (Rule(r"(?:^|/)_background_noise_/(?P<original>[^/]+)\.", {"kind": "noise", "sound_class": "unlabelled"}),
         Rule(r"(?:^|/)[a-z]+/(?P<speaker>[0-9a-f]+)_nohash_\d+\.",
              {"kind": "speech", "sound_class": "clean", "language": "en"})),
        listings.speech_commands,
    ),
    "musan": Recipe(
        "MUSAN", "CC-BY-4.0 (parts public domain; see the LICENSE file of each folder)", "folders music, noise, speech",
        (Rule(r"(?:^|/)music/[^/]+/(?P<original>[^/]+)\.", {"kind": "music", "sound_class": "music"}),
         Rule(r"(?:^|/)noise/[^/]+/(?P<original>[^/]+)\.", {"kind": "noise", "sound_class": "unlabelled"}),
         Rule(r"(?:^|/)speech/librivox/(?P<speaker>[^/]+)\.", {"kind": "speech", "sound_class": "clean"}),
         Rule(r"(?:^|/)speech/us-gov/(?P<original>[^/]+)\.", {"kind": "real_noisy", "sound_class": "hearing"})),
    ),
    "demand": Recipe(
        "DEMAND", "CC-BY-SA-3.0", "PLACE/ch01.wav … ch16.wav; the first channel is taken",
        (Rule(r"(?:^|/)(?P<original>(?P<sound_class>[A-Z]{4,}))/ch01\.",
              {"kind": "noise"}, {"sound_class": DEMAND_PLACES}),),
    ),
    "esc-50": Recipe(
        "ESC-50", "CC-BY-NC-3.0 (NON-COMMERCIAL)", "audio/*.wav and meta/esc50.csv",
        (Rule(r"audio/", {"kind": "noise"}),), listings.esc50, only_listed=True,
    ),
    "esc-50-pieces": Recipe(
        "ESC-50", "", "Binary_Drone_Audio/unknown/FOLD-ID-TAKE-CLASS followed by the number of the second, .wav",
        (Rule(r"unknown/(?P<original>\d-\d+-[A-Z]-\d+)\d\.wav$", {"kind": "noise"}),),
        listings.esc50_pieces, only_listed=True, pieces=True,
    ),
    "fsd50k": Recipe(
        "FSD50K", "not stated without FSD50K.metadata; taken as NON-COMMERCIAL",
        "FSD50K.dev_audio, FSD50K.eval_audio, FSD50K.ground_truth, FSD50K.metadata",
        (Rule(r"FSD50K\.(?:dev|eval)_audio/(?P<original>\d+)\.", {"kind": "noise"}),),
        listings.fsd50k, only_listed=True,
    ),
    "rirs-noises": Recipe(
        "RIRS_NOISES", "Apache-2.0", "simulated_rirs, real_rirs_isotropic_noises, pointsource_noises", _RIRS_RULES,
    ),
    "dns-challenge": Recipe(
        "DNS-Challenge", "CC-BY-4.0 and others per folder (see the publisher's README)",
        "datasets_fullband or datasets: clean…, noise…, impulse_responses",
        (*(Rule(_DNS_SPEECH + tail, {"kind": "speech", "sound_class": "clean"}, {"language": DNS_LANGUAGES})
           for tail in _DNS_SPEAKERS),
         Rule(r"noise(?:_fullband)?/(?:.*/)?(?P<original>[^/]*?)(?:_\d+)?\.\w+$",
              {"kind": "noise", "sound_class": "unlabelled"}), *_RIRS_RULES),
    ),
    "folder": Recipe(
        "folder", "", "speech/SPEAKER/…, noise/CLASS/…, music/…, rir/…; --licence is required",
        (Rule(r"^speech/(?P<speaker>[^/]+)/", {"kind": "speech", "sound_class": "clean"}),
         Rule(r"^noise/(?P<sound_class>[^/]+)/", {"kind": "noise"}),
         Rule(r"^music/", {"kind": "music", "sound_class": "music"}), Rule(r"^rir/", _ROOM)),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """Which speakers a recipe takes, and how it divides them."""

    exclude_languages: frozenset[str] = frozenset()
    """Recordings in these languages are left out, as is everything else by their speakers."""
    exclude_speakers: frozenset[str] = frozenset()
    split_by_speaker: bool = False
    """Divide by the hash of the speaker instead of the publisher's split."""
    known_splits: Mapping[str, str] = field(default_factory=dict)
    """Split of each `source/speaker` that another corpus folder uses already."""


def find(
    name: str, folder: Path, *, source: str = "", licence: str = "", language: str = "", choice: Choice | None = None
) -> list[FoundRecording]:
    """Classify every file of a corpus.

    Args:
        name: Key of `RECIPES`.
        folder: The corpus in its publisher's layout, or a folder above it.
        source: Replaces the recipe's source in every finding.
        licence: Replaces the recipe's licence; the wording of the source.
        language: Replaces the recipe's language of the speech.
        choice: Which speakers to take; None takes all, in the publisher's split.

    Returns:
        Findings in path order. Each has a split: the publisher's, or one derived from the speaker or recording.

    Raises:
        RecipeError: No file matches, or no licence is known.
    """
    recipe = RECIPES[name]
    listed = recipe.listing(folder) if recipe.listing else {}
    found = [finding for path in _sounds(folder) if (finding := _finding(recipe, folder, path, listed))]
    if recipe.pieces:
        found = _joined(found)
    if not found:
        raise RecipeError(f"{folder} does not look like {name}: expected {recipe.about}")
    changed = [
        replace(
            finding,
            source=source or finding.source,
            licence=licence or finding.licence,
            language=language if language and finding.kind == "speech" else finding.language,
        )
        for finding in found
    ]
    if any(not finding.licence for finding in changed):
        raise RecipeError(
            f"expected a licence, the recipe {name} has none: pass --licence with the exact wording of the source"
        )
    return _chosen(changed, choice) if choice else changed


def _chosen(findings: list[FoundRecording], choice: Choice) -> list[FoundRecording]:
    """Leave out what is excluded and assign the other splits.

    Raises:
        RecipeError: An excluded name does not occur, or nothing is left.
    """
    for what, names, found in (
        ("language", choice.exclude_languages, {finding.language for finding in findings}),
        ("speaker", choice.exclude_speakers, {finding.speaker for finding in findings}),
    ):
        if unknown := sorted(names - found):
            listed = ", ".join(sorted(found - {""})[:20])
            raise RecipeError(f"expected each excluded {what} to occur, got {', '.join(unknown)}: use one of {listed}")
    reserved = {f.speaker for f in findings if f.language in choice.exclude_languages} | choice.exclude_speakers
    kept = []
    for finding in findings:
        if finding.speaker and finding.speaker in reserved:
            continue
        split = split_of(finding.speaker) if choice.split_by_speaker and finding.speaker else finding.split
        kept.append(replace(finding, split=choice.known_splits.get(f"{finding.source}/{finding.speaker}", split)))
    if not kept:
        raise RecipeError("expected recordings, all are excluded: exclude fewer languages or speakers")
    return kept


def split_of(group: str) -> str:
    """Return the split of a speaker or recording if the publisher defines none; it depends only on the name."""
    share = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") / 2**32
    return "valid" if share < VALID_SHARE else "train"


def _sounds(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUND_SUFFIXES)


def _joined(findings: list[FoundRecording]) -> list[FoundRecording]:
    """Turn the pieces of each recording, sorted by name, into one finding."""
    whole: dict[str, list[FoundRecording]] = {}
    for finding in findings:
        whole.setdefault(finding.original, []).append(finding)
    return [replace(first, further=tuple(piece.path for piece in rest)) for first, *rest in whole.values()]


_VALUES = {value.name for value in fields(FoundRecording)} - {"path", "source", "further"}


def _finding(
    recipe: Recipe, folder: Path, path: Path, listed: Mapping[str, Mapping[str, str]]
) -> FoundRecording | None:
    """Classify one file; None if no rule matches or the lists exclude it."""
    name = path.relative_to(folder).as_posix()
    for rule in recipe.rules:
        match = re.search(rule.pattern, name)
        if match is None:
            continue
        row = listed.get(name)
        if row is None and recipe.only_listed:
            return None
        caught = {key.rstrip("_"): value for key, value in match.groupdict().items() if value}
        caught = {key: rule.turns.get(key, {}).get(value, value) for key, value in caught.items() if key in _VALUES}
        values = {"licence": recipe.licence} | dict(rule.says) | caught | dict(row or {})
        if not values.get("kind"):
            return None
        finding = FoundRecording(path=path, source=recipe.source, further=(), **values)
        if not finding.original:
            finding = replace(finding, original=Path(name).with_suffix("").as_posix())
        return finding if finding.split else replace(finding, split=split_of(finding.group))
    return None
