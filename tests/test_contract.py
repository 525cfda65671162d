import json

import pytest

from speech_qc.contract import LABEL_CATALOG, FeatureSpec, LabelSpec, parse_contract
from speech_qc.engine import echo_contract

INPUTS = {"features": ("B", "T", 73), "state": ("B", 7)}
OUTPUTS = {"scores": ("B", "T2", 12), "new_state": ("B", 7)}


def contract(**changes):
    return echo_contract().model_copy(update={"state_size": 7, **changes})


def test_a_fitting_model_has_nothing_wrong():
    assert contract().check(INPUTS, OUTPUTS) == []


def test_all_mismatches_are_listed_at_once():
    bent = contract(contract_version=9, features=FeatureSpec(hop_samples=128, mel_bands=40), lookahead_frames=7)
    wrong = "\n".join(bent.check({"audio": ("B", "T")}, {"scores": ("B", 5, 11)}))
    for part in (
        "contract_version: expected 1, got 9",
        "features.hop_samples: expected 160, got 128",
        "features.mel_bands",
        "lookahead_frames",
        "input 'audio': not part of the contract",
        "input 'features': expected",
        "input 'state': expected",
        "output 'scores': expected shape",
        "output 'new_state': expected",
    ):
        assert part in wrong


def test_baked_axes_are_found():
    wrong = contract().check({**INPUTS, "features": ("B", 100, 73)}, OUTPUTS)
    assert len(wrong) == 1 and "expected shape (symbolic, symbolic, 73)" in wrong[0]


def test_required_labels_and_doubles_are_found():
    labels = contract().labels
    wrong = contract(labels=(labels[1], labels[1], labels[2])).check(INPUTS, {**OUTPUTS, "scores": ("B", "T2", 3)})
    assert any("'noise' is declared twice" in line for line in wrong)
    assert any("'speech' is required" in line for line in wrong)
    assert any("'snr_db' is required" in line for line in wrong)


def test_a_contract_survives_its_document():
    again, wrong = parse_contract(contract().model_dump_json())
    assert (again, wrong) == (contract(), [])


def test_mistakes_in_a_document_are_named():
    document = json.loads(contract().model_dump_json())
    document["labels"][0]["kind"] = "db"
    document["labels"][1]["enter"] = 1.5
    document["version"] = "one"
    document["colour"] = "blue"
    parsed, wrong = parse_contract(json.dumps(document))
    assert parsed is None
    text = "\n".join(wrong)
    for part in ("labels.0", "labels.1.enter", "version", "colour"):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "loudness"}, "unknown"),
        ({"family": "noise"}, "family/kind"),
        ({"enter": 0.2, "exit": 0.3}, "above enter"),
        ({"enter": None}, "needs enter and exit"),
        ({"low": 1.0, "high": 0.0}, "not below high"),
    ],
)
def test_a_label_must_be_consistent(changes, message):
    fields = {"name": "noise", "family": "headline", "kind": "probability", "enter": 0.5, "exit": 0.3, **changes}
    with pytest.raises(ValueError, match=message):
        LabelSpec(**fields)


def test_latency_is_lookahead_and_window_overlap():
    assert contract(lookahead_frames=2).latency_s == pytest.approx(0.04 + 240 / 16_000)


def test_every_label_of_the_catalog_has_a_family_and_a_kind():
    assert all(kind in ("probability", "db", "mos") for _, kind in LABEL_CATALOG.values())
