"""Who may import whom, walked from the source; a wrong import is a wrong design."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = {"service.contract", "service.errors", "service.settings"}
SCORED = {"service.audio", "service.engine", "service.scoring"}
HEAVY = {"torch", "training", "onnx"}
WEB = {"fastapi", "starlette", "uvicorn"}


def modules(package: str) -> list[tuple[str, Path]]:
    folder = ROOT / package
    return [
        (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path)
        for path in sorted(folder.rglob("*.py"))
    ]


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def area(name: str) -> str:
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize(
    ("name", "path"), modules("service"), ids=lambda value: str(value) if "." in str(value) else ""
)
def test_imports_point_the_right_way(name, path):
    found = imports_of(path)
    tops = {module.split(".")[0] for module in found}
    ours = {area(module) for module in found if module.startswith("service.")}

    assert not tops & HEAVY, f"{name}: the runtime needs neither torch nor training"
    if name in BASE:
        assert ours <= {"service.errors"}, f"{name} is imported by all, so it imports none but errors; found {ours}"
    if area(name) in SCORED:
        assert ours <= BASE | {area(name)}, f"{name} imports {ours - BASE - {area(name)}}"
    if area(name) == "service.explain":
        allowed = BASE | {"service.audio", "service.scoring", "service.explain"}
        assert ours <= allowed, f"{name} explains what is there, it runs no model; found {ours - allowed}"
    if not name.startswith(("service.api", "service.app", "service.cli", "service.commands")):
        assert not tops & WEB, f"{name} must not know HTTP"
    if area(name) == "service.live":
        assert "service.api" not in ours, f"{name}: the transport stands on live streams, not they on it"
    if name != "service.engine.runner":
        assert "onnxruntime" not in tops, f"{name}: ONNX Runtime is imported in one place"


@pytest.mark.parametrize(
    ("name", "path"), modules("training"), ids=lambda value: str(value) if "." in str(value) else ""
)
def test_training_takes_only_shared_parts_of_the_service(name, path):
    allowed = {"service.contract", "service.audio", "service.scoring", "service.errors", "service.engine"}
    ours = {area(module) for module in imports_of(path) if module.startswith("service.")}
    assert ours <= allowed, f"{name} imports {ours - allowed}"


SERVING = ("service.commands.serving", "service.app", "service.api.stream_server")
CLIENTS = ("service.commands.streaming", "service.commands.configuring", "service.commands.keys")
MODEL = {"onnxruntime", "scipy"}
TRAINING = {"torch", "onnx", "training", "matplotlib", "tqdm"}


@pytest.mark.parametrize(
    ("names", "unwanted"),
    [
        (("service.cli",), WEB | MODEL | TRAINING | {"numpy", "pydantic", "rich", "httpx"}),
        (("service.commands.inspecting",), WEB | TRAINING | {"httpx", "prometheus_client", "websockets"}),
        (CLIENTS, WEB | MODEL | TRAINING | {"prometheus_client"}),
        (("service.workers",), WEB | MODEL | TRAINING | {"numpy", "rich"}),
        (SERVING, TRAINING | {"httpx", "pandas", "opentelemetry.sdk", "scipy.signal"}),
    ],
    ids=["help", "inspect", "clients", "parent of workers", "serve"],
)
def test_a_start_imports_no_more_than_it_needs(names, unwanted):
    program = f"import importlib, sys; [importlib.import_module(name) for name in {names!r}]; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert not unwanted & set(run.stdout.split()), f"{', '.join(names)}: import it where it is used"


def test_the_program_tells_the_collector_before_it_imports():
    program = (
        "import gc, sys, service.__main__, service.commands.worker; "
        "assert not {'typer', 'pydantic', 'numpy', 'fastapi'} & set(sys.modules); before = gc.get_threshold()[0]; "
        "sys.argv = ['speech-qc', '--version']; service.__main__.main(); print(before, gc.get_threshold()[0])"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    before, after = map(int, run.stdout.split()[-2:])
    assert before < 10_000 < after, "the collector's looks are a fifth of a start"
