"""Properties of the model in `models/`: figures, licences, and the same result however it is run."""

import numpy as np
import pytest

from signals import voice, white_noise
from speech_qc.audio.features import FrontEnd
from speech_qc.contract import LABEL_CATALOG
from training.corpora.manifest import allows_commercial_use

FRONT_END = FrontEnd()
TOLERANCE = 1e-4


def features_of(samples):
    return FRONT_END(samples[None])[:, : (len(samples) - 240) // 320 * 2]


def whole(runner, features):
    return runner.run(features, np.zeros((len(features), runner.contract.state_size), np.float32))


def test_golden_vectors_are_reproduced(shipped_runner, model_path):
    golden = np.load(model_path.with_name(model_path.stem + ".golden.npz"))
    scores, new_state = shipped_runner.run(golden["features"], golden["state"])
    np.testing.assert_allclose(scores, golden["scores"], atol=TOLERANCE)
    np.testing.assert_allclose(new_state, golden["new_state"], atol=1e-3)


@pytest.mark.parametrize("hops", [2, 10, 40, 400])
def test_chunks_of_any_lane_give_the_scores_of_the_whole(shipped_runner, hops):
    features = features_of(voice(9.0) + white_noise(9.0, level_dbfs=-45))
    expected, _ = whole(shipped_runner, features)
    state = np.zeros((1, shipped_runner.contract.state_size), np.float32)
    parts = []
    for start in range(0, features.shape[1], hops):
        scores, state = shipped_runner.run(features[:, start : start + hops], state)
        parts.append(scores)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=TOLERANCE)


@pytest.mark.parametrize("batch", [2, 3, 64])
def test_batch_mates_do_not_change_scores(shipped_runner, batch):
    rows = np.concatenate([features_of(white_noise(1.0, seed=i) * 0.3 + voice(1.0, seed=i)) for i in range(batch)])
    together, _ = whole(shipped_runner, rows)
    for i in {0, batch // 2, batch - 1}:
        alone, _ = whole(shipped_runner, rows[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], atol=TOLERANCE)


def test_scores_stay_in_the_range_that_the_contract_declares(shipped_runner):
    for samples in (np.zeros(16_240, np.float32), np.ones(16_240, np.float32), white_noise(1.015, level_dbfs=0.0)):
        scores, _ = whole(shipped_runner, features_of(samples))
        for column, label in enumerate(shipped_runner.contract.labels):
            assert scores[..., column].min() >= label.low - 1e-6
            assert scores[..., column].max() <= label.high + 1e-6


def test_every_label_of_the_catalogue_has_a_head(shipped_runner):
    assert set(shipped_runner.contract.label_names) == set(LABEL_CATALOG)


def test_nothing_non_commercial_was_learnt_from(shipped_runner):
    data = shipped_runner.contract.data
    assert data
    for row in data:
        assert row["licence"]
        assert allows_commercial_use(str(row["licence"])), row


def test_the_model_knows_where_it_came_from(shipped_runner):
    training = shipped_runner.contract.training
    for name in ("commit", "config", "seed", "manifest_sha256", "steps", "minutes", "parameters"):
        assert training.get(name) not in (None, ""), name


def test_steady_noise_is_heard_and_silence_is_not(shipped_runner):
    """The simplest case, with synthetic signals: hiss is noise without speech; digital silence is neither."""
    index = shipped_runner.contract.index
    hiss, _ = whole(shipped_runner, features_of(white_noise(4.0, level_dbfs=-30)))
    silence, _ = whole(shipped_runner, features_of(np.zeros(64_000, np.float32)))
    assert np.median(hiss[0, 50:, index("noise")]) > 0.7
    assert np.median(hiss[0, 50:, index("speech")]) < 0.1
    assert np.median(silence[0, 50:, index("noise")]) < 0.1
    assert np.median(silence[0, 50:, index("speech")]) < 0.1


def test_the_sample_is_heard_as_it_was_made(shipped_runner, sample_path):
    """The sample: the talker alone until 3.4 s, a fan from 3.4 to 6.5 s, a ring-back tone from 6.9 s on."""
    import soundfile

    samples, _ = soundfile.read(sample_path, dtype="float32")
    scores = whole(shipped_runner, features_of(samples))[0][0, shipped_runner.contract.lookahead_frames :]
    index = shipped_runner.contract.index
    alone, fan = slice(10, 165), slice(185, 320)
    assert scores[alone, index("noise")].mean() < 0.2 < 0.8 < scores[fan, index("noise")].mean()
    assert scores[alone, index("interference")].mean() < 0.2
    assert scores[350:490, index("tone")].max() > 0.8
    assert scores[alone, index("tone")].max() < 0.5


@pytest.mark.parametrize("level_dbfs", [-10, -25, -40])
def test_steady_noise_with_nobody_speaking_is_noise_however_loud(shipped_runner, level_dbfs):
    contract = shipped_runner.contract
    scores, _ = whole(shipped_runner, features_of(white_noise(8.0, level_dbfs=level_dbfs)))
    settled = scores[0, 150:]
    assert settled[:, contract.index("noise")].mean() > contract.labels[contract.index("noise")].enter
    assert settled[:, contract.index("speech")].max() < 0.2


def test_noise_under_speech_is_noise_however_soft_the_recording_is(shipped_runner):
    column = shipped_runner.contract.index("noise")
    heard = voice(8.0) + white_noise(8.0, level_dbfs=-40)
    for gain_db in (0, -10, -20):
        scores, _ = whole(shipped_runner, features_of((heard * 10 ** (gain_db / 20)).astype(np.float32)))
        assert scores[0, 150:, column].mean() > 0.8, gain_db
