from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from engine_doubles import plain_front_end, random_chunks, run, running

from speech_qc.engine import OnnxRunner, Runner
from speech_qc.errors import ContractError, InferenceError, StartupError

onnx = pytest.importorskip("onnx")
from tiny_onnx import tiny_contract, write_tiny_model  # noqa: E402 - needs onnx


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def cuda_here(tiny_model: Path) -> bool:
    return OnnxRunner(tiny_model, "auto").provider == "CUDAExecutionProvider"


def random_input(batch: int, hops: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    contract = tiny_contract()
    features = rng.normal(0, 1, (batch, hops, contract.features.columns)).astype(np.float32)
    return features, rng.normal(0, 1, (batch, contract.state_size)).astype(np.float32)


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ContractError) as caught:
        OnnxRunner(path, "cpu")
    assert str(path) in caught.value.message
    found: list[str] = caught.value.detail.get("mismatches", [])
    assert all(line in caught.value.message for line in found)
    return found


def test_a_file_that_keeps_the_contract_is_loaded_with_hash_and_provider(tiny_model: Path) -> None:
    runner: Runner = OnnxRunner(tiny_model, "cpu")
    assert runner.contract == tiny_contract()
    assert runner.sha256 == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert runner.provider == "CPUExecutionProvider"
    assert not runner.provider_fallback
    assert not runner.fixed_shapes


def test_scores_are_those_of_the_formula(tiny_model: Path) -> None:
    features, state = random_input(3, 10)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tiny_model).graph.initializer}
    scores, new_state = OnnxRunner(tiny_model, "cpu").run(features, state)
    logits = features.reshape(3, 5, -1) @ weights["W"] + state[:, np.newaxis]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)
    np.testing.assert_allclose(new_state, np.tanh(state / 2 + (features @ weights["V"]).mean(axis=1)), atol=1e-5)


@pytest.mark.parametrize("bind_buffers", [False, True])
def test_scores_do_not_depend_on_the_batch(tiny_model: Path, bind_buffers: bool) -> None:
    runner = OnnxRunner(tiny_model, "cpu", bind_buffers=bind_buffers)
    runner.warm_up([(1, 10), (37, 10)])
    features, state = random_input(37, 10)
    together = runner.run(features, state)
    for row in (0, 17, 36):
        alone = runner.run(features[row : row + 1], state[row : row + 1])
        for one, all_rows in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], all_rows[row], atol=1e-5)


def test_bound_buffers_give_the_scores_of_plain_runs_and_are_not_handed_out(tiny_model: Path) -> None:
    plain, bound = OnnxRunner(tiny_model, "cpu"), OnnxRunner(tiny_model, "cpu", bind_buffers=True)
    bound.warm_up([(4, 10), (4, 10)])
    first_input, second_input = random_input(4, 10, seed=1), random_input(4, 10, seed=2)
    first = bound.run(*first_input)
    second = bound.run(*second_input)
    unbound = bound.run(*random_input(3, 20, seed=3))
    for got, wanted in zip(
        [*first, *second, *unbound],
        [*plain.run(*first_input), *plain.run(*second_input), *plain.run(*random_input(3, 20, seed=3))],
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"nowhere\.onnx: expected a readable ONNX file.*SPEECHQC_MODEL_PATH"):
        OnnxRunner(tmp_path / "nowhere.onnx", "cpu")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="expected a readable ONNX file"):
        OnnxRunner(tmp_path, "cpu")


@pytest.mark.parametrize("content", [b"", b"RIFF this is no model", b"\x00" * 64])
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, device: str) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises(ContractError, match="expected one ONNX file"):
        OnnxRunner(path, device)  # type: ignore[arg-type]


def test_a_file_without_metadata_is_refused(tmp_path: Path) -> None:
    found = mistakes(write_tiny_model(tmp_path / "m.onnx", metadata=False))
    assert found == ["metadata 'speechqc': expected a JSON document, got none"]


def test_a_document_that_is_no_contract_lists_every_mistake(tmp_path: Path) -> None:
    document = json.loads(tiny_contract().model_dump_json())
    del document["name"]
    document["version"] = "one"
    document["labels"][2]["name"] = "hum"
    found = mistakes(write_tiny_model(tmp_path / "m.onnx", json.dumps(document)))
    assert len(found) == 3
    assert [line.split(":")[0] for line in sorted(found)] == ["labels.2", "name", "version"]


def test_text_that_is_no_json_is_refused(tmp_path: Path) -> None:
    assert len(mistakes(write_tiny_model(tmp_path / "m.onnx", "{labels"))) == 1


def test_every_mismatch_between_file_and_service_is_listed(tmp_path: Path) -> None:
    features = tiny_contract().features.model_copy(update={"mel_high_hz": 8000.0, "log_floor": 1e-6})
    contract = tiny_contract(features=features, state_size=99, lookahead_frames=6, contract_version=2)
    path = write_tiny_model(
        tmp_path / "m.onnx", contract.model_dump_json(), state_name="cache", batch=1, elem_type=onnx.TensorProto.DOUBLE
    )
    found = "\n".join(mistakes(path))
    for part in (
        "input 'cache': expected tensor(float), got tensor(double)",
        "output 'new_state': expected tensor(float), got tensor(double)",
        "contract_version: expected 1",
        "features.mel_high_hz: expected 7600.0",
        "features.log_floor",
        "lookahead_frames: expected at most 0.1 s",
        "input 'cache': not part of the contract",
        "input 'state': expected",
        "input 'features': expected shape (symbolic, symbolic, 73)",
        "output 'scores': expected shape",
        "output 'new_state': expected shape (symbolic, 99)",
    ):
        assert part in found


def test_what_the_runtime_refuses_is_an_inference_error(tiny_model: Path) -> None:
    runner = OnnxRunner(tiny_model, "cpu")
    features, state = random_input(2, 10)
    with pytest.raises(InferenceError, match="could not run") as caught:
        runner.run(features[:, :, :-1], state)
    assert caught.value.__cause__ is not None


def test_scores_of_the_wrong_length_are_an_inference_error(tiny_model: Path) -> None:
    features, state = random_input(2, 10)
    runner = OnnxRunner(tiny_model, "cpu")
    with pytest.raises(InferenceError, match="from the model"):
        runner.run(features, state[:1])  # broadcasts inside the graph, so the runtime accepts it


def test_cuda_that_is_not_to_be_had_stops_the_start(
    tiny_model: Path, cuda_here: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if cuda_here:
        pytest.skip("CUDA works on this machine")
    with pytest.raises(StartupError, match=r"runs on CPUExecutionProvider.*SPEECHQC_DEVICE"):
        OnnxRunner(tiny_model, "cuda")
    assert capsys.readouterr().out == ""


def test_auto_without_cuda_falls_back_and_says_so(
    tiny_model: Path, cuda_here: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    if cuda_here:
        pytest.skip("CUDA works on this machine")
    with caplog.at_level(logging.WARNING, "speech_qc.engine.runner"):
        runner = OnnxRunner(tiny_model, "auto")
    assert runner.provider == "CPUExecutionProvider"
    assert runner.provider_fallback
    assert "the model runs on the CPU" in caplog.text
    assert capfd.readouterr().out == ""  # standard output belongs to the running command


@pytest.mark.gpu
def test_cuda_gives_the_scores_of_the_cpu(tiny_model: Path, cuda_here: bool) -> None:
    if not cuda_here:
        pytest.skip("no CUDA device or libraries on this machine")
    cpu, cuda = OnnxRunner(tiny_model, "cpu"), OnnxRunner(tiny_model, "cuda")
    assert (cuda.provider, cuda.provider_fallback, cuda.fixed_shapes) == ("CUDAExecutionProvider", False, True)
    cuda.warm_up([(8, 10)])
    for batch in (8, 3):  # with own buffers, and without
        given = random_input(batch, 10, seed=batch)
        for one, other in zip(cpu.run(*given), cuda.run(*given), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_engine_runs_a_real_model_alone_and_together_alike(tiny_model: Path) -> None:
    streams = [random_chunks(seed, 3) for seed in range(5)]

    async def test() -> None:
        async with running(OnnxRunner(tiny_model, "cpu"), front_end=plain_front_end) as engine:  # type: ignore[arg-type]

            async def score(chunks: list[np.ndarray]) -> np.ndarray:
                number = engine.open_session()
                return np.concatenate([(await engine.submit(number, samples, "live")).scores for samples in chunks])

            together = await asyncio.gather(*(score(chunks) for chunks in streams))
            for number in range(5):
                engine.close_session(number)
            for chunks, scores in zip(streams, together, strict=True):
                np.testing.assert_allclose(await score(chunks), scores, atol=1e-5)
                assert scores.shape == (15, 12)

    run(test())
