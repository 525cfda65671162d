import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from speech_qc.contract import LABEL_CATALOG
from speech_qc.errors import ProtocolError, SettingsError
from speech_qc.scoring import BUILT_IN_PROFILES, CODES, MEASURES, Limit, Profile, Summary, Verdict, judge, load_profiles
from speech_qc.scoring.severity import MINOR_ABOVE_SNR_DB, MODERATE_REVERBERATION_SCORE, SEVERE_BELOW_SNR_DB
from speech_qc.scoring.summary import SNR_KINDS

RATIOS = {name: 0.0 for name, (_, kind) in LABEL_CATALOG.items() if kind == "probability"} | {"speech": 0.6}
CLEAN = Summary(
    frames=3000,
    speech_frames=1800,
    speech_ratio=0.6,
    noise_ratio=0.0,
    interference_ratio=0.0,
    snr_db=40.0,
    sig=4.4,
    bak=4.5,
    ovrl=4.3,
    reverberation=0.0,
    snr_by_kind_db=dict.fromkeys(SNR_KINDS, 45.0),
    lost_ratio=0.0,
    losses_per_min=0.0,
    longest_loss_ms=0.0,
    label_ratios=RATIOS,
    reasons={},
)
SILENT = dataclasses.replace(
    CLEAN, speech_frames=0, speech_ratio=0.0, snr_db=None, sig=None, bak=None, ovrl=None,
    reverberation=None, snr_by_kind_db={}, lost_ratio=None, label_ratios=RATIOS | {"speech": 0.0},
)  # fmt: skip
LEVELS: dict[str, float | None] = {
    "rms_dbfs": -22.0,
    "peak_dbfs": -3.0,
    "clipped_ratio": 0.0,
    "dc_offset": 0.0001,
    "digital_silence_ratio": 0.0,
    "bandwidth_hz": 7800.0,
    "loudness_lufs": -22.0,
    "loudness_range_lu": 8.0,
    "true_peak_dbtp": -2.0,
    "noise_floor_dbfs": -70.0,
    "high_band_dbfs": -90.0,
    "cancellation_db": -3.0,
}


def with_ratios(summary: Summary = CLEAN, /, **ratios: float) -> Summary:
    return dataclasses.replace(summary, label_ratios=dict(summary.label_ratios) | ratios)


def verdict(
    profile: str | Mapping[str, Any] = "default",
    summary: Summary = CLEAN,
    *,
    duration_s: float = 60.0,
    events: Mapping[str, int] | None = None,
    **levels: float | None,
) -> Verdict:
    chosen = load_profiles().get(profile) if isinstance(profile, str) else Profile.model_validate({"limits": profile})
    return judge(chosen, duration_s=duration_s, summary=summary, levels=LEVELS | levels, event_counts=events or {})


def codes(result: Verdict) -> list[str]:
    return [reason.code for reason in result.reasons]


# --- profiles --------------------------------------------------------------------------------------------------------


def test_the_four_profiles_ship_and_each_describes_itself() -> None:
    profiles = load_profiles()
    assert profiles.names == ("default", "callcenter", "dataset", "broadcast")
    assert all(profiles.get(name).description for name in profiles.names)


def test_every_built_in_profile_passes_a_clean_recording() -> None:
    for name in load_profiles().names:
        result = verdict(name)
        assert (result.status, result.reasons) == ("pass", ()), name
        assert result.quality is not None and result.quality > 90.0, name


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProtocolError, match="default, callcenter, dataset, broadcast, got 'studio'"):
        load_profiles().get("studio")


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_users_file_replaces_the_built_in_one(tmp_path: Path) -> None:
    profiles = load_profiles(write(tmp_path, "profiles: {studio: {limits: {snr_db: {fail_below: 35}}}}"))
    assert profiles.names == ("studio",)
    assert profiles.get("studio").limits["snr_db"].fail_below == 35.0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ("{snr: {fail_below: 3}}", "limit 'snr' is unknown"),
        ("{snr_db: {fail_under: 3}}", "limit 'snr_db', fail_under"),
        ("{snr_db: {fail_below: '3'}}", "limit 'snr_db', fail_below"),
        ("{snr_db: {fail_below: true}}", "limit 'snr_db', fail_below"),
        ("{snr_db: {fail_below: .nan}}", "limit 'snr_db', fail_below"),
        ("{snr_db: {fail_below: 20, warn_below: 10}}", "limit 'snr_db'.*fail_below <= warn_below"),
        ("{noise_ratio: {warn_above: 0.5, fail_above: 0.2}}", "limit 'noise_ratio'.*warn_above <= fail_above"),
        ("{snr_db: {}}", "limit 'snr_db'.*at least one"),
        ("{snr_db: {full_from: 30}}", "limit 'snr_db'.*at least one"),
        ("{snr_db: {warn_below: 20, full_from: 30}}", "limit 'snr_db'.*full_from needs both"),
        ("{snr_db: {warn_below: 20, fail_below: 10, full_from: 15}}", "limit 'snr_db'.*warn_below <= full_from"),
        ("{snr_db: {warn_below: 20, fail_below: 10, zero_below: 15}}", "limit 'snr_db'.*zero_below <= fail_below"),
        ("{noise_ratio: {warn_above: 50}}", "limit 'noise_ratio': expected warn_above from 0 to 1, got 50"),
        ("{snr_db: {fail_below: 3}, snr_db: {fail_below: 4}}", "snr_db occurs twice"),
        ("{}", "profile 'mine', limits"),
        ("3", "profile 'mine', limits"),
    ],
)
def test_a_wrong_limit_stops_the_start_and_is_named(tmp_path: Path, limits: str, words: str) -> None:
    path = write(tmp_path, f"profiles: {{mine: {{limits: {limits}}}}}")
    with pytest.raises(SettingsError, match=words) as caught:
        load_profiles(path)
    assert str(path) in caught.value.message
    if "twice" not in words:
        assert "profile 'mine'" in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "profiles: {}", "profile: {}", "a: [", "1", "profiles: {1: {limits: 2}}"])
def test_a_file_that_is_no_profile_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError, match=r"mine\.yaml"):
        load_profiles(path)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent"):
        load_profiles(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"profiles: \xff\xfe")
    with pytest.raises(SettingsError, match="latin"):
        load_profiles(tmp_path / "latin.yaml")


def test_each_built_in_profile_is_explained_in_a_comment() -> None:
    text = BUILT_IN_PROFILES.read_text(encoding="utf-8")
    for name in yaml.safe_load(text)["profiles"]:
        after = text.split(f"\n  {name}:\n", 1)[1]
        assert after.lstrip(" ").startswith("#"), name


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_values_beyond_a_limit_warn_or_fail_and_values_on_it_pass() -> None:
    limits = {"snr_db": {"warn_below": 20.0, "fail_below": 10.0}}
    for snr_db, status in ((20.0, "pass"), (19.9, "warn"), (10.0, "warn"), (9.9, "fail")):
        assert verdict(limits, dataclasses.replace(CLEAN, snr_db=snr_db)).status == status
    limits = {"noise_ratio": {"warn_above": 0.2, "fail_above": 0.5}}
    for ratio, status in ((0.2, "pass"), (0.21, "warn"), (0.5, "warn"), (0.51, "fail")):
        assert verdict(limits, with_ratios(noise=ratio)).status == status


def test_a_reason_names_value_limit_and_label_in_a_sentence() -> None:
    (reason,) = verdict(
        {"snr_db": {"warn_below": 20.0, "fail_below": 10.0}}, dataclasses.replace(CLEAN, snr_db=8.24)
    ).reasons
    assert (reason.code, reason.label, reason.value, reason.limit) == ("snr_db_below", "snr_db", 8.24, 10.0)
    assert reason.message == "The signal-to-noise ratio is 8.2 dB, below the fail limit of 10 dB."
    (reason,) = verdict({"music_ratio": {"warn_above": 0.2}}, with_ratios(music=0.734)).reasons
    assert (reason.code, reason.label) == ("music_ratio_above", "music")
    assert reason.message == "The share of time with music is 73.4 %, above the warn limit of 20 %."


def test_a_value_just_beyond_its_limit_is_written_so_that_they_differ() -> None:
    (reason,) = verdict({"snr_db": {"fail_below": 10.0}}, dataclasses.replace(CLEAN, snr_db=9.9996)).reasons
    assert "is 9.9996 dB, below the fail limit of 10 dB" in reason.message
    (reason,) = verdict({"clipped_ratio": {"fail_above": 0.0005}}, clipped_ratio=0.2).reasons
    assert "is 20 %, above the fail limit of 0.05 %" in reason.message


def test_reasons_that_fail_stand_before_those_that_warn() -> None:
    limits = {"noise_ratio": {"warn_above": 0.1}, "snr_db": {"fail_below": 10.0}}
    result = verdict(limits, dataclasses.replace(with_ratios(noise=0.9), snr_db=1.0))
    assert result.status == "fail"
    assert codes(result) == ["snr_db_below", "noise_ratio_above"]


def test_a_short_recording_is_unknown_whatever_its_figures() -> None:
    result = verdict("default", dataclasses.replace(CLEAN, snr_db=-10.0), duration_s=0.48, digital_silence_ratio=1.0)
    assert (result.status, codes(result)) == ("unknown", ["too_short"])
    assert (result.reasons[0].value, result.reasons[0].limit) == (0.48, 0.5)
    assert "0.48 s" in result.reasons[0].message
    assert verdict("default", duration_s=0.5).status == "pass"


def test_without_speech_the_verdict_is_unknown_and_speech_limits_say_nothing() -> None:
    for name in load_profiles().names:
        result = verdict(name, with_ratios(SILENT, noise=1.0, music=1.0), rms_dbfs=-65.0, bandwidth_hz=500.0)
        assert (result.status, codes(result)) == ("unknown", ["no_speech"]), name
        assert (result.reasons[0].value, result.reasons[0].label) == (0.0, "speech")


def test_a_recording_of_nothing_but_zeros_fails() -> None:
    for name in load_profiles().names:
        result = verdict(name, SILENT, digital_silence_ratio=1.0, rms_dbfs=None, peak_dbfs=None)
        assert (result.status, codes(result)) == ("fail", ["digital_silence_ratio_above", "no_speech"]), name


def test_a_mere_warning_without_speech_stays_unknown_and_is_listed() -> None:
    result = verdict("default", SILENT, dc_offset=0.05)
    assert (result.status, codes(result)) == ("unknown", ["no_speech", "dc_offset_above"])


def test_a_few_frames_of_speech_are_no_speech() -> None:
    result = verdict("default", dataclasses.replace(SILENT, speech_frames=3, speech_ratio=0.001))
    assert codes(result) == ["no_speech"]
    assert "3 of 3000 frames" in result.reasons[0].message


def test_a_null_figure_gives_no_reason() -> None:
    limits = {name: {"fail_below": m.high, "fail_above": m.high} for name, m in MEASURES.items()}
    nothing = dataclasses.replace(
        CLEAN, snr_db=None, sig=None, bak=None, ovrl=None, reverberation=None, snr_by_kind_db={}, label_ratios={},
        speech_ratio=None, lost_ratio=None, losses_per_min=None, longest_loss_ms=None,
    )  # fmt: skip
    no_levels: dict[str, Any] = dict.fromkeys(LEVELS)
    assert verdict(limits, nothing, **no_levels) == Verdict("pass", (), 100.0)


def test_every_measure_can_fail_a_recording_with_a_code_of_the_closed_set() -> None:
    events = {"dropout": 3, "transient_noise": 3}
    levels = {"clipped_ratio": 0.5, "digital_silence_ratio": 0.5}
    summary = dataclasses.replace(with_ratios(**dict.fromkeys(RATIOS, 0.5)), reverberation=0.5)
    for name, measure in MEASURES.items():
        if (measure.source == "levels" and name not in LEVELS) or (
            measure.source == "summary" and not hasattr(CLEAN, name)
        ):
            continue  # not measured by this version
        result = verdict({name: {"fail_below": measure.high}}, summary, events=events, **levels)
        assert (result.status, codes(result)) == ("fail", [f"{name}_below"]), name
        assert set(codes(result)) <= CODES


def test_events_are_counted_per_minute() -> None:
    limits = {"dropouts_per_min": {"fail_above": 2.0}}
    assert verdict(limits, duration_s=120.0, events={"dropout": 4}).status == "pass"
    (reason,) = verdict(limits, duration_s=120.0, events={"dropout": 5, "music": 9}).reasons
    assert (reason.code, reason.label, reason.value) == ("dropouts_per_min_above", "dropout", 2.5)


def test_one_event_in_a_short_recording_warns_and_two_fail_it() -> None:
    """One event in five seconds is twelve per minute, but may be a false alarm."""
    limits = {"dropouts_per_min": {"warn_above": 2.0, "fail_above": 12.0}}
    one = verdict(limits, duration_s=4.9, events={"dropout": 1})
    assert (one.status, codes(one)) == ("warn", ["dropouts_per_min_above"])
    assert verdict(limits, duration_s=4.9, events={"dropout": 2}).status == "fail"
    assert verdict({"dropouts_per_min": {"fail_above": 1.0}}, duration_s=30.0, events={"dropout": 1}).status == "warn"
    assert verdict(limits, duration_s=40.0, events={"dropout": 1}).status == "pass"


def test_a_model_that_does_not_look_for_dropouts_is_not_taken_to_find_none() -> None:
    blind = dataclasses.replace(CLEAN, label_ratios={"speech": 0.6, "noise": 0.0, "interference": 0.0})
    assert verdict({"dropouts_per_min": {"fail_below": 1.0}}, blind).status == "pass"
    assert verdict({"dropouts_per_min": {"fail_below": 1.0}}).status == "fail"


def test_a_negative_dc_offset_counts_by_its_size() -> None:
    (reason,) = verdict("default", dc_offset=-0.2).reasons
    assert (reason.code, reason.value) == ("dc_offset_above", 0.2)


def test_telephone_speech_passes_the_call_centre_and_fails_the_data_set() -> None:
    telephone: dict[str, Any] = {"bandwidth_hz": 3400.0, "digital_silence_ratio": 0.5}
    quiet_side = dataclasses.replace(CLEAN, speech_ratio=0.2, speech_frames=600, snr_db=25.0)
    assert verdict("callcenter", quiet_side, **telephone).status == "pass"
    result = verdict("dataset", quiet_side, **telephone)
    assert result.status == "fail" and "bandwidth_hz_below" in codes(result)


def test_broadcast_does_not_let_clipping_pass() -> None:
    found = codes(verdict("broadcast", clipped_ratio=1e-5, true_peak_dbtp=1.0))
    assert found == ["true_peak_dbtp_above", "clipped_ratio_above"]


# --- quality ---------------------------------------------------------------------------------------------------------

SNR_LIMITS = {"snr_db": {"warn_below": 20.0, "fail_below": 10.0}}


def quality(limits: Mapping[str, Any], **figures: Any) -> float:
    result = verdict(limits, dataclasses.replace(CLEAN, **figures))
    assert result.quality is not None
    return result.quality


def test_points_are_100_70_40_and_0_at_the_bounds_and_linear_between() -> None:
    limits = {"snr_db": {"full_from": 40.0, "warn_below": 20.0, "fail_below": 10.0, "zero_below": -10.0}}
    for snr_db, points in ((45, 100), (40, 100), (30, 85), (20, 70), (15, 55), (10, 40), (0, 20), (-10, 0), (-15, 0)):
        assert quality(limits, snr_db=float(snr_db)) == pytest.approx(points, abs=0.1), snr_db


def test_without_further_bounds_points_continue_at_the_slope_between_warn_and_fail() -> None:
    for snr_db, points in ((30, 100), (25, 85), (5, 25), (0, 10), (-4, 0)):
        assert quality(SNR_LIMITS, snr_db=float(snr_db)) == pytest.approx(points, abs=0.1), snr_db


def test_a_single_limit_is_a_gate() -> None:
    assert quality({"snr_db": {"warn_below": 20.0}}, snr_db=20.0) == 100.0
    assert 40.0 <= quality({"snr_db": {"warn_below": 20.0}}, snr_db=-15.0) < 70.0
    assert quality({"snr_db": {"fail_below": 20.0}}, snr_db=20.0) == 100.0
    assert quality({"snr_db": {"fail_below": 20.0}}, snr_db=19.9) < 40.0


def test_the_worst_impairment_dominates_and_several_add_up() -> None:
    limits = SNR_LIMITS | {
        "ovrl": {"warn_below": 3.0, "fail_below": 2.0},
        "bak": {"warn_below": 3.0, "fail_below": 2.0},
    }
    one = quality(limits, snr_db=22.0, ovrl=4.5, bak=4.5)
    assert one == pytest.approx(76.0, abs=0.1)
    assert quality(limits, snr_db=22.0, ovrl=3.8, bak=4.5) > one - 1.0, "a slight impairment beside it hardly counts"
    result = verdict(limits, dataclasses.replace(CLEAN, snr_db=22.0, ovrl=3.2, bak=3.2))
    assert result.status == "warn" and result.quality == pytest.approx(58.4, abs=0.1)
    assert codes(result) == ["quality_below", "snr_db_below", "ovrl_below", "bak_below"]
    assert (
        result.reasons[0].message == "Several measures together lower the quality to 58.4, below the warn limit of 70."
    )
    assert (
        result.reasons[1].message
        == "The signal-to-noise ratio is 22 dB, within the warn limit of 20 dB, but costs 24 of 100 points."
    )


def test_reasons_stand_in_the_order_of_their_penalties() -> None:
    limits = SNR_LIMITS | {
        "ovrl": {"warn_below": 3.0, "fail_below": 2.0},
        "bak": {"warn_below": 3.0, "fail_below": 2.0},
    }
    result = verdict(limits, dataclasses.replace(CLEAN, snr_db=19.0, ovrl=2.2, bak=1.5))
    assert codes(result) == ["bak_below", "ovrl_below", "snr_db_below"]


def test_a_verdict_of_unknown_has_no_quality() -> None:
    assert verdict("default", SILENT).quality is None
    assert verdict("default", duration_s=0.3).quality is None


def test_a_loud_fan_is_judged_worse_than_a_faint_hum() -> None:
    fan = dataclasses.replace(CLEAN, snr_db=5.0, bak=1.9, ovrl=1.9)
    hum = dataclasses.replace(with_ratios(noise=1.0, interference=1.0, tone=1.0), snr_db=20.0, bak=3.6, ovrl=3.3)
    for name in load_profiles().names:
        worse, better = (verdict(name, summary).quality or 0.0 for summary in (fan, hum))
        assert worse <= better, name
    assert verdict("default", hum).status == "pass"
    assert verdict("default", fan).status == "fail"


def test_reverberation_is_judged_by_every_profile() -> None:
    church = dataclasses.replace(CLEAN, reverberation=0.96, ovrl=2.0, sig=2.8)
    for name in load_profiles().names:
        result = verdict(name, church)
        assert result.status in ("warn", "fail") and "reverberation_above" in codes(result), name


def test_a_muted_line_with_hiss_is_a_silent_line() -> None:
    for name in load_profiles().names:
        result = verdict(name, SILENT, rms_dbfs=-90.0, peak_dbfs=-78.0, dc_offset=0.0)
        assert (result.status, codes(result), result.quality) == ("fail", ["silent", "no_speech"], 0.0), name
    assert "is -90 dBFS, below -70 dBFS" in result.reasons[0].message
    offset = verdict("default", SILENT, rms_dbfs=-60.0, dc_offset=-0.001)
    assert codes(offset) == ["silent", "no_speech"], "an offset is no sound"
    assert verdict({"snr_db": {"fail_below": 3.0}}, SILENT, rms_dbfs=None).status == "fail"
    assert verdict("default", SILENT, rms_dbfs=-60.0).status == "unknown"


def test_the_severity_of_events_agrees_with_the_default_profile() -> None:
    limits = load_profiles().get("default").limits
    assert (limits["snr_db"].warn_below, limits["snr_db"].fail_below) == (MINOR_ABOVE_SNR_DB, SEVERE_BELOW_SNR_DB)
    assert limits["reverberation"].warn_above == MODERATE_REVERBERATION_SCORE


UNIT = st.floats(0, 1)


@given(st.lists(UNIT, min_size=4, max_size=4), UNIT, UNIT)
def test_points_never_rise_as_a_value_gets_worse(bounds: list[float], first: float, second: float) -> None:
    zero, fail, warn, full = sorted(bounds)
    better, worse = max(first, second), min(first, second)
    below = Limit(zero_below=zero, fail_below=fail, warn_below=warn, full_from=full)
    assert below.points(worse, 0.0, 1.0) <= below.points(better, 0.0, 1.0) + 1e-9
    above = Limit(zero_above=full, fail_above=warn, warn_above=fail, full_to=zero)
    assert above.points(better, 0.0, 1.0) <= above.points(worse, 0.0, 1.0) + 1e-9


@given(st.lists(st.floats(0, 45), min_size=3, max_size=3), st.integers(0, 2), st.floats(0, 45))
def test_the_quality_never_rises_as_one_measure_gets_worse(values: list[float], index: int, less: float) -> None:
    limits = {f"{kind}_snr_db": {"warn_below": 20.0, "fail_below": 10.0} for kind in SNR_KINDS[:3]}
    worse = [*values]
    worse[index] = min(worse[index], less)
    found = [
        verdict(limits, dataclasses.replace(CLEAN, snr_by_kind_db=dict(zip(SNR_KINDS[:3], snrs, strict=True)))).quality
        for snrs in (values, worse)
    ]
    assert found[0] is not None and found[1] is not None and found[1] <= found[0]


@pytest.mark.parametrize("name", load_profiles().names)
@given(st.floats(-10, 45), st.floats(1, 5), UNIT, UNIT)
def test_status_follows_from_the_quality(
    name: str, snr_db: float, ovrl: float, reverberation: float, lost: float
) -> None:
    summary = dataclasses.replace(with_ratios(dropout=lost), snr_db=snr_db, ovrl=ovrl, reverberation=reverberation)
    result = verdict(name, summary)
    assert result.quality is not None
    assert result.status == ("pass" if result.quality >= 70 else "warn" if result.quality >= 40 else "fail")
    assert bool(result.reasons) == (result.status != "pass")


BOUND = st.floats(0, 1) | st.none()


@given(st.tuples(BOUND, BOUND, BOUND, BOUND), st.floats(0, 1))
def test_status_and_reasons_agree_for_any_limit(bounds: tuple[float | None, ...], value: float) -> None:
    ordered = iter(sorted(bound for bound in bounds if bound is not None))
    names = ("fail_below", "warn_below", "warn_above", "fail_above")
    limit = {name: next(ordered) for name, bound in zip(names, bounds, strict=True) if bound is not None}
    if not limit:
        return
    assert Limit.model_validate(limit)
    result = verdict({"noise_ratio": limit}, with_ratios(noise=value))
    fails = value < limit.get("fail_below", -math.inf) or value > limit.get("fail_above", math.inf)
    warns = value < limit.get("warn_below", -math.inf) or value > limit.get("warn_above", math.inf)
    assert result.status == ("fail" if fails else "warn" if warns else "pass")
    assert len(result.reasons) == (result.status != "pass")
    for reason in result.reasons:
        assert reason.code in CODES and reason.message.endswith(".")


def test_a_capped_share_states_the_limit_that_it_counts_as() -> None:
    limits = {"lost_ratio": {"warn_above": 0.01, "fail_above": 0.06}}
    lossy = dataclasses.replace(CLEAN, lost_ratio=0.2)
    one, two = (verdict(limits, lossy, events={"dropout": count}) for count in (1, 2))
    assert (one.status, two.status) == ("warn", "fail")
    assert "above the warn limit of 1 %" in one.reasons[0].message and one.reasons[0].limit == 0.01
    assert "above the fail limit of 6 %" in two.reasons[0].message and two.reasons[0].limit == 0.06
    gate = verdict({"lost_ratio": {"fail_above": 0.06}}, lossy, events={"dropout": 1})
    assert gate.status == "warn" and gate.reasons[0].limit == 0.06


def test_the_length_of_a_single_loss_can_fail() -> None:
    limits = {"longest_loss_ms": {"warn_above": 100.0, "fail_above": 400.0}}
    result = verdict(limits, dataclasses.replace(CLEAN, longest_loss_ms=2000.0), events={"dropout": 1})
    assert result.status == "fail" and codes(result) == ["longest_loss_ms_above"]
