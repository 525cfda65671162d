"""The labels that each sound class of the manifests stands for.

For each label, a class is `yes` (its energy is evidence for the label), `maybe` (the label is masked while the sound is
present, because listeners would disagree), or `no` (everything else). A class that is not in the table is noise of
unknown cause: it trains the headline label, and the cause labels are masked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from training.corpora.manifest import Stem


@dataclass(frozen=True, slots=True)
class Meaning:
    """Labels that a sound is evidence for, and labels that are masked while it is present."""

    yes: frozenset[str]
    maybe: frozenset[str] = frozenset()


def _meaning(yes: str, maybe: str = "") -> Meaning:
    return Meaning(frozenset(yes.split()), frozenset(maybe.split()))


STATIONARY = _meaning("noise stationary_noise", "transient_noise")
TRANSIENT = _meaning("noise transient_noise", "stationary_noise")
VOCAL = _meaning("noise transient_noise", "stationary_noise interfering_speech")
AMBIENCE_WITH_VOICES = _meaning("noise", "stationary_noise transient_noise interfering_speech interference")
AMBIENCE = _meaning("noise", "stationary_noise transient_noise")
AMBIENCE_WITH_MUSIC = _meaning("noise", "stationary_noise transient_noise music tone interfering_speech interference")
TONAL = _meaning("interference tone", "noise transient_noise stationary_noise music")
TONAL_NOISE = _meaning("noise", "stationary_noise transient_noise tone interference music")
UNKNOWN = _meaning("noise", "stationary_noise transient_noise interfering_speech interference music tone")

MUSIC = _meaning("interference music", "tone")
TALKER = _meaning("interference interfering_speech")
BABBLE = _meaning("interference interfering_speech", "noise stationary_noise")
SYNTHETIC_TONE = _meaning("interference tone")  # hum, call tones, beeps and buzz are no music
SYNTHETIC_NOISE = _meaning("noise stationary_noise")
SYNTHETIC_WIND = _meaning("noise stationary_noise", "transient_noise")
SYNTHETIC_CLICKS = _meaning("noise transient_noise")

_CLASSES: dict[str, Meaning] = {}
for _names, _what in (
    (
        "aircraft_engine airplane boat boiler boiling_water dryer engine exercise_bike fan helicopter highway hiss "
        "laundry_room machine motor pink_noise rain rain_on_car_roof rain_on_leaves rain_on_tent rain_on_umbrella "
        "rain_on_window river road room_background rumble running_tap sailboat sea_waves traffic train vacuum_cleaner "
        "washing_machine waterfall waves white_noise wind radio_static chainsaw hand_saw beehive insects crickets "
        "shower toilet_flush pouring_water snoring brushing_teeth air_conditioner",
        STATIONARY,
    ),
    (
        "bubbles can_opening cash_till cat chirping_birds birds clapping clock clock_tick cow cows crow crows "
        "digital_glitch dishes dog door door_wood_creaks door_wood_knock drinking_sipping droplets fireworks footsteps "
        "frog glass_breaking hen horse_gallop keyboard_typing mouse_click owl paper pig rattle rooster scratch "
        "seagulls sheep slide_projector typewriter walk_in_snow walk_on_gravel walk_on_leaves water_drops wolf "
        "woodpecker windshield_wipers thunder vinyl_effect crackling_fire campfire fireplace rowing_boat",
        TRANSIENT,
    ),
    (
        "ape bat bell bird_of_prey bottle_glass camel camera_click chewing coins_chest deer digging duck elephant "
        "explosion growl hammer hit horse metal_or_hit pop scissors sea_mammal small_animal squeak_toy water_splash "
        "wood_crack writing zipper",
        TRANSIENT,
    ),
    ("fire_whoosh kettle leaves_rustle snow_or_storm", AMBIENCE),
    ("building_works explosion_machine", AMBIENCE),
    ("coughing sneezing laughing crying_baby breathing voice_miaow groan_shout screaming burping_baby", VOCAL),
    (
        "babble_crowd bar cafe crowd library office restaurant subway_station supermarket street construction_site",
        AMBIENCE_WITH_VOICES,
    ),
    ("jungle night_village thunderstorm laboratory", AMBIENCE),
    ("carousel church temple radio_tuning", AMBIENCE_WITH_MUSIC),
    (
        "buzz clock_alarm electrical_hum hum morse_code notification phone_dial_tone phone_ring ringtone_call_progress "
        "ringtone_music",
        TONAL,
    ),
    ("car_horn church_bells siren whistling wind_chimes", TONAL_NOISE),
    ("music", MUSIC),
):
    _CLASSES.update(dict.fromkeys(_names.split(), _what))


VOCAL_CLASSES = frozenset(name for name, what in _CLASSES.items() if what is VOCAL)
"""Sounds that people make without words: coughs, cries, laughter."""

_STEADY = (
    "air_conditioner aircraft_engine airplane boat boiler dryer engine fan helicopter highway hiss machine motor "
    "pink_noise rain road room_background running_tap shower traffic vacuum_cleaner washing_machine waterfall "
    "white_noise"
)
STEADY_CLASSES = frozenset(_STEADY.split())
"""Classes of steady noise whose recordings hardly ever pause."""

_AMBIGUOUS = (
    "bell cash_till church_bells clock_alarm laughing morse_code notification phone_dial_tone phone_ring "
    "ringtone_call_progress ringtone_music siren wind_chimes"
)
AMBIGUOUS = frozenset(_AMBIGUOUS.split())
"""Alarms, bells, dialling, machine beeps, laughter: listeners agree that they disturb, but not on noise or
interference."""

DISTURBANCE = "disturbance"
"""Noise or interference: a label of figures only, which no model has as a label of its own."""
ANY_DISTURBANCE = _meaning(DISTURBANCE)

_VOICED = (
    "ape bat bird_of_prey birds breathing burping_baby camel cat chirping_birds coughing cow cows crow crows "
    "crying_baby deer dog duck elephant frog groan_shout growl hen horse laughing owl pig rooster screaming "
    "sea_mammal seagulls sheep small_animal sneezing snoring voice_miaow whistling wolf"
)
VOICED = frozenset(_VOICED.split())
"""Vocal sounds that are not speech; a speech detector most easily mistakes them for speech."""


def meaning_of(sound_class: str) -> Meaning:
    """Return the labels of a sound class; a class that is not in the table is noise of unknown cause."""
    return _CLASSES.get(sound_class, UNKNOWN)


def judged_meaning(sound_class: str) -> Meaning:
    """Return the labels of a sound class for figures: as in training, but ambiguous classes mask both headlines."""
    meaning = meaning_of(sound_class)
    if sound_class not in AMBIGUOUS:
        return meaning
    headlines = {"noise", "interference"}
    return Meaning(meaning.yes - headlines, meaning.maybe | headlines)


_CROWD_SOURCES = ("commonvoice", "speechcommands", "speechocean", "voxforge", "alphanumericaudio")
"""Parts of the names of sources that volunteers recorded with browsers and telephones; lower case, letters only."""
TELEPHONE_RATE_HZ = 8_000


def microphone_of(stem: Stem) -> str:
    """Return the kind of microphone: that of the manifest, else `phone` at 8 kHz, `crowd` for known sources, `studio`.

    Source: the descriptions of the corpora.
    """
    if stem.microphone:
        return stem.microphone
    if stem.sample_rate_hz <= TELEPHONE_RATE_HZ:
        return "phone"
    letters = re.sub(r"[^a-z]", "", stem.source.lower())
    return "crowd" if any(name in letters for name in _CROWD_SOURCES) else "studio"


def known_classes() -> frozenset[str]:
    """Return the classes in the table."""
    return frozenset(_CLASSES)
