"""Who may import whom, walked from the source; a wrong import is a wrong design."""

from __future__ import annotations

import ast
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
