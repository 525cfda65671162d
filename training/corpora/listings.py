"""Readers of the lists that some corpora provide: speakers, sound classes, licences and splits.

Each reader takes the corpus folder and returns the values of `FoundRecording` by path relative to that folder.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

Values = dict[str, dict[str, str]]

# The sound class of this project, and the equivalent names of the AudioSet ontology in FSD50K's spelling.
_CLASS_NAMES = (
    ("airplane", "Aircraft Fixed-wing_aircraft_and_airplane"),
    ("babble_crowd", "Chatter"),
    ("bell", "Bicycle_bell Doorbell"),
    ("boat", "Boat_and_Water_vehicle"),
    ("boiling_water", "Boiling"),
    ("breathing", "Breathing Gasp Sigh"),
    ("burping", "Burping_and_eructation"),
    ("buzz", "Buzz"),
    ("camera_click", "Camera"),
    ("car_horn", "Vehicle_horn_and_car_horn_and_honking"),
    ("cat", "Cat Meow Purr"),
    ("chewing", "Chewing_and_mastication"),
    ("chirping_birds", "Bird_vocalization_and_bird_call_and_bird_song Chirp_and_tweet"),
    ("church_bells", "Church_bell"),
    ("clapping", "Applause Clapping"),
    ("clock_tick", "Tick Tick-tock"),
    ("coins", "Coin_(dropping)"),
    ("coughing", "Cough"),
    ("cow", "Livestock_and_farm_animals_and_working_animals"),
    ("crackling_fire", "Crackle Fire"),
    ("crickets", "Cricket"),
    ("crow", "Crow"),
    ("crowd", "Cheering Crowd"),
    ("crying", "Crying_and_sobbing"),
    ("dishes", "Cutlery_and_silverware Dishes_and_pots_and_pans Glass"),
    ("dog", "Bark Dog Growling"),
    ("door", "Cupboard_open_or_close Door Drawer_open_or_close Slam"),
    ("door_wood_creaks", "Squeak"),
    ("door_wood_knock", "Knock"),
    ("drill", "Drill Power_tool"),
    (
        "engine",
        "Accelerating_and_revving_and_vroom Bus Engine Engine_starting Idling Motorcycle "
        "Race_car_and_auto_racing Truck",
    ),
    ("explosion", "Explosion"),
    ("fan", "Mechanical_fan"),
    ("fart", "Fart"),
    ("finger_snap", "Finger_snapping"),
    ("fireworks", "Fireworks"),
    ("footsteps", "Run Walk_and_footsteps"),
    ("frog", "Frog"),
    ("frying", "Frying_(food)"),
    ("glass_breaking", "Shatter"),
    ("gunshot", "Gunshot_and_gunfire"),
    ("hammer", "Hammer"),
    ("hand_saw", "Sawing"),
    ("hen", "Fowl"),
    ("hiss", "Hiss"),
    ("insects", "Insect"),
    ("keyboard_typing", "Computer_keyboard Typing"),
    ("keys", "Keys_jangling"),
    ("laughing", "Chuckle_and_chortle Giggle Laughter"),
    ("machine", "Mechanisms Microwave_oven Ratchet_and_pawl"),
    ("paper", "Packing_tape_and_duct_tape Tearing"),
    ("phone_ring", "Telephone"),
    ("pouring_water", "Pour Trickle_and_dribble"),
    ("printer", "Printer"),
    ("rain", "Rain Raindrop"),
    ("rattle", "Rattle"),
    ("ringtone_call_progress", "Ringtone"),
    ("river", "Stream"),
    ("rooster", "Chicken_and_rooster"),
    ("running_tap", "Sink_(filling_or_washing) Water_tap_and_faucet"),
    ("scissors", "Scissors"),
    ("scratch", "Scratching_(performance_technique)"),
    ("screaming", "Screaming"),
    ("screech", "Screech"),
    ("sea_waves", "Ocean Waves_and_surf"),
    ("seagulls", "Gull_and_seagull"),
    ("shouting", "Shout Yell"),
    ("siren", "Siren"),
    ("skateboard", "Skateboard"),
    ("sneezing", "Sneeze"),
    ("tapping", "Tap"),
    ("thunder", "Thunder"),
    ("thunderstorm", "Thunderstorm"),
    ("toilet_flush", "Toilet_flush"),
    ("traffic", "Car_passing_by Traffic_noise_and_roadway_noise"),
    ("train", "Rail_transport Subway_and_metro_and_underground Train"),
    ("typewriter", "Typewriter"),
    ("water_drops", "Drip"),
    ("wind", "Wind"),
    ("wind_chimes", "Chime Wind_chime"),
    ("writing", "Writing"),
    ("zipper", "Zipper_(clothing)"),
)
FSD50K_CLASSES = {name: sound_class for sound_class, names in _CLASS_NAMES for name in names.split()}
_SPOKEN = ("speech", "conversation", "singing", "whispering", "speaking")
_LICENCES = (
    ("publicdomain/zero", "CC0-1.0"),
    ("sampling+", "CC-Sampling+-1.0 (NON-COMMERCIAL)"),
    ("by-nc/4", "CC-BY-NC-4.0 (NON-COMMERCIAL)"),
    ("by-nc/3", "CC-BY-NC-3.0 (NON-COMMERCIAL)"),
    ("by/4", "CC-BY-4.0"),
    ("by/3", "CC-BY-3.0"),
)


def common_voice(folder: Path) -> Values:
    """Read the validated recordings by speaker; `dev.tsv` and `test.tsv` give the publisher's split, if they exist."""
    values: Values = {}
    for table in sorted(folder.rglob("validated.tsv")):
        splits = {
            row["client_id"]: split
            for name, split in (("dev.tsv", "valid"), ("test.tsv", "test"))
            if table.with_name(name).is_file()
            for row in _rows(table.with_name(name), "\t")
        }
        rest = "train" if splits else ""  # without the publisher's lists, the speaker determines the split
        for row in _rows(table, "\t"):
            path = _below(folder, table.parent / "clips" / row["path"])
            speaker = row["client_id"]
            values[path] = {"speaker": speaker[:16], "split": splits.get(speaker, rest), "language": row.get("locale") or table.parent.name}  # fmt: skip  # noqa: E501
    return values


def common_voice_clips(folder: Path) -> Values:
    """Read the speakers that are known; clips that listeners rejected are left out.

    A clip that no list names may be by any of these speakers, so everything is for training.
    """
    values: Values = {}
    for table in sorted(folder.rglob("validated.tsv")):
        for row in _rows(table, "\t"):
            path = _below(folder, table.parent / "clips" / row["path"])
            values[path] = {"speaker": row["client_id"][:16], "split": "train"}
        invalid = table.with_name("invalidated.tsv")
        for row in _rows(invalid, "\t") if invalid.is_file() else ():
            values[_below(folder, table.parent / "clips" / row["path"])] = {"kind": ""}
    return values


def speech_commands(folder: Path) -> Values:
    """Read the publisher's split, which is by speaker."""
    values: Values = {}
    for name, split in (("validation_list.txt", "valid"), ("testing_list.txt", "test")):
        for table in sorted(folder.rglob(name)):
            for line in table.read_text(encoding="utf-8").split():
                values[_below(folder, table.parent / line)] = {"split": split}
    listed = {Path(path).name.split("_nohash_")[0]: row["split"] for path, row in values.items()}
    for path in folder.rglob("*_nohash_*"):
        speaker = path.name.split("_nohash_")[0]
        values[_below(folder, path)] = {"split": listed.get(speaker, "train")}
    return values


def esc50(folder: Path) -> Values:
    """Read classes and recordings; fold 5 is held out. The ESC-10 subset may be used commercially."""
    values: Values = {}
    for table in sorted(folder.rglob("esc50.csv")):
        for row in _rows(table):
            path = _below(folder, table.parents[1] / "audio" / row["filename"])
            values[path] = {
                "sound_class": row["category"],
                "original": row["src_file"],
                "split": "valid" if row["fold"] == "5" else "train",
            }
            if row["esc10"] == "True":
                values[path]["licence"] = "CC-BY-3.0 (ESC-10 subset)"
    return values


_ESC50_NAMES = (
    "dog rooster pig cow frog cat hen insects sheep crow rain sea_waves crackling_fire crickets chirping_birds "
    "water_drops wind pouring_water toilet_flush thunderstorm crying_baby sneezing clapping breathing coughing "
    "footsteps laughing brushing_teeth snoring drinking_sipping door_wood_knock mouse_click keyboard_typing "
    "door_wood_creaks can_opening washing_machine vacuum_cleaner clock_alarm clock_tick glass_breaking "
    "helicopter chainsaw siren car_horn engine train church_bells airplane fireworks hand_saw "
)
ESC50_CLASSES = tuple(_ESC50_NAMES.split())
"""The class of each number in the names of ESC-50's files."""
ESC50_LICENCES = Path(__file__).with_name("esc50_licences.csv")
"""Freesound recordings in ESC-50 that are CC0 or CC BY, from its LICENSE file: number, author, licence."""


def esc50_pieces(folder: Path) -> Values:
    """Read the pieces of 1 s of the clips in `ESC50_LICENCES`; recordings that are in fold 5 are held out."""
    allowed = {row["sound"]: row for row in _rows(ESC50_LICENCES)}
    names = {path: path.stem.split("-") for path in folder.rglob("*.wav")}
    held = {parts[1] for parts in names.values() if len(parts) == 4 and parts[0] == "5"}
    values: Values = {}
    for path, parts in names.items():
        if len(parts) != 4 or parts[1] not in allowed or not parts[3].isdecimal():
            continue
        row = allowed[parts[1]]
        values[_below(folder, path)] = {
            "sound_class": ESC50_CLASSES[int(parts[3][:-1])],
            "licence": f"{row['licence']} (authors in training/corpora/esc50_licences.csv)",
            "split": "valid" if parts[1] in held else "train",
        }
    return values


def fsd50k(folder: Path) -> Values:
    """Read classes by the most specific known label. A clip with music is music; clips with speech are left out."""
    values: Values = {}
    for part, split in (("dev", ""), ("eval", "test")):
        for table in sorted(folder.rglob(f"FSD50K.ground_truth/{part}.csv")):
            root = table.parents[1]
            about = root / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json"
            licences = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
            for row in _rows(table):
                path = _below(folder, root / f"FSD50K.{part}_audio" / f"{row['fname']}.wav")
                values[path] = {"split": split or {"val": "valid"}.get(row["split"], "train")} | _sounding(
                    row["labels"]
                )
                if row["fname"] in licences:
                    values[path]["licence"] = licence_of(licences[row["fname"]]["license"])
    return values


def licence_of(address: str) -> str:
    """Return the short name of a Creative Commons licence URL; an unknown URL is returned unchanged."""
    return next((name for part, name in _LICENCES if part in address), address)


def _sounding(labels: str) -> dict[str, str]:
    names = labels.split(",")
    if any(word in name.lower() for name in names for word in _SPOKEN):
        return {"kind": ""}
    if "Music" in names:
        return {"kind": "music", "sound_class": "music"}
    known = [FSD50K_CLASSES[name] for name in names if name in FSD50K_CLASSES]
    return {"kind": "noise", "sound_class": known[0] if known else "unlabelled"}


def _rows(table: Path, delimiter: str = ",") -> Iterator[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        if delimiter == "\t":  # sentences contain unpaired quotes
            yield from csv.DictReader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            yield from csv.DictReader(file)


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
