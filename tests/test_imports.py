"""The allowed imports between modules, checked in the source."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from speech_qc.capacity.host import free_port

ROOT = Path(__file__).resolve().parent.parent
SERVICE = ROOT / "service"
PACKAGE = SERVICE / "speech_qc"

GROUND = {"contract", "errors", "exit_codes", "file_stamp", "gc_tuning", "settings", "shutdown", "version"}
"""Modules that everything may import; they import at most each other and the vocabulary."""
SCORED = {"audio", "engine", "scoring"}
HEAVY = {"torch", "training", "onnx"}
WEB = {"fastapi", "starlette", "uvicorn"}
KNOW_THE_WEB = ("api", "app", "cli", "security", "server")


def modules(folder: Path) -> list[tuple[str, Path]]:
    base = SERVICE if folder == PACKAGE else folder.parent
    return [
        (".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"), path)
        for path in sorted(folder.rglob("*.py"))
    ]


def imports_of(path: Path) -> set[str]:
    """Return every module imported in a file, including imports within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


OURS = modules(PACKAGE)
NAMES = {name for name, _ in OURS}


def room(name: str) -> str:
    """Return the folder of a module; a module at the root, like the package's `__init__`, counts as its own folder."""
    if name == "speech_qc":
        return "__init__"
    parts = name.split(".")
    folder = PACKAGE.joinpath(*parts[1:])
    return "/".join(parts[1:] if folder.is_dir() else parts[1:-1]) or parts[1]


def rooms_of(path: Path) -> set[str]:
    """Return the folders from which a file imports."""
    return {room(name) for name in imports_of(path) & NAMES if name != "speech_qc"}


def floor(name: str) -> str:
    return room(name).split("/")[0]


def test_folders_and_root_modules_form_a_directed_acyclic_graph():
    graph: dict[str, set[str]] = defaultdict(set)
    for name, path in OURS:
        graph[room(name)] |= rooms_of(path) - {room(name)}
    try:
        order = tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these rooms import each other in a circle: {' → '.join(error.args[1])}")
    assert len(order) > 25, "the walk has found the rooms"
    assert "__init__" not in set().union(*graph.values()), "import what you need from its own module"


def test_the_walk_sees_imports_within_functions_and_of_folders(tmp_path):
    file = tmp_path / "one.py"
    file.write_text("def f():\n    from speech_qc.engine import Engine\n    import speech_qc.live.stream\n")
    assert rooms_of(file) == {"engine", "live"}
    assert room("speech_qc.pipeline.explain.band") == "pipeline/explain"
    assert room("speech_qc.app") == "app"


@pytest.mark.parametrize(("name", "path"), OURS, ids=lambda value: str(value) if "." in str(value) else "")
def test_imports_point_the_right_way(name, path):
    tops = {module.split(".")[0] for module in imports_of(path)}
    ours = {found.split("/")[0] for found in rooms_of(path)}

    assert not tops & HEAVY, f"{name}: the runtime needs neither torch nor training"
    if floor(name) in GROUND:
        assert ours <= GROUND | {"wire"}, f"{name} is imported by all; found {ours - GROUND}"
    if floor(name) in SCORED:
        allowed = GROUND | {"wire", floor(name)}
        assert ours <= allowed, f"{name} imports {ours - allowed}"
        other = {found for found in imports_of(path) & NAMES if found.startswith("speech_qc.wire.")}
        assert other <= {"speech_qc.wire.vocabulary"}, f"{name} needs words, not messages: {other}"
    if floor(name) == "wire":
        assert ours <= GROUND | {"wire"}, f"{name} is what others build; found {ours - GROUND}"
    if name.startswith("speech_qc.pipeline.explain"):
        allowed = GROUND | {"audio", "scoring", "wire", "pipeline"}
        assert ours <= allowed, f"{name} explains what is there, it runs no model; found {ours - allowed}"
    if floor(name) not in KNOW_THE_WEB:
        assert not tops & WEB, f"{name} must not know HTTP"
    if floor(name) == "live":
        assert not ours & {"api", "server"}, f"{name}: the transport stands on live streams, not they on it"
    if name != "speech_qc.engine.runner":
        assert "onnxruntime" not in tops, f"{name}: ONNX Runtime is imported in one place"


@pytest.mark.parametrize(
    ("name", "path"), modules(ROOT / "training"), ids=lambda value: str(value) if "." in str(value) else ""
)
def test_training_takes_only_shared_parts_of_the_service(name, path):
    allowed = GROUND | SCORED | {"wire"}
    ours = {found.split("/")[0] for found in rooms_of(path)}
    assert ours <= allowed, f"{name} imports {ours - allowed}"


SERVING = ("speech_qc.cli.serve", "speech_qc.app", "speech_qc.server.server")
EMBEDDED = ("speech_qc.embedded.detector", "speech_qc.embedded.stream")
DRIVER = ("speech_qc.cli.archive", "speech_qc.archive.run", "speech_qc.archive.local", "speech_qc.archive.sources.find")
CLIENTS = ("speech_qc.cli.stream", "speech_qc.cli.settings", "speech_qc.cli.keys")
MODEL = {"onnxruntime", "scipy"}
NOT_SERVED = {"httpx", "pandas", "opentelemetry.sdk", "scipy.signal", "alembic", "rich", "pygments"}
TRAINING = {"torch", "onnx", "training", "matplotlib", "tqdm"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "unwanted"),
    [
        (("speech_qc",), WEB | MODEL | TRAINING | {"numpy", "pydantic", "httpx", "asyncio"}),
        (EMBEDDED, WEB | TRAINING | {"httpx", "prometheus_client", "websockets", "rich", "typer"}),
        (("speech_qc.cli.main",), WEB | MODEL | TRAINING | {"numpy", "pydantic", "rich", "httpx"}),
        (("speech_qc.cli.inspect",), WEB | TRAINING | {"httpx", "prometheus_client", "websockets"}),
        (DRIVER, WEB | MODEL | TRAINING | {"httpx", "prometheus_client", "soundfile", "pydantic"}),
        (CLIENTS, WEB | MODEL | TRAINING | {"prometheus_client"}),
        (("speech_qc.workers",), WEB | MODEL | TRAINING | {"numpy", "rich"}),
        (SERVING, TRAINING | NOT_SERVED),
    ],
    ids=["package", "Python API", "help", "inspect", "archive", "clients", "parent of workers", "serve"],
)
def test_a_start_imports_no_more_than_it_needs(names, unwanted):
    program = f"import importlib, sys; [importlib.import_module(name) for name in {names!r}]; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert not unwanted & set(run.stdout.split()), f"{', '.join(names)}: import it where it is used"


READY = """
import gc, sys
from speech_qc.cli.main import main
from speech_qc.cli.seams import Seams

def run_server(app, **options):
    from speech_qc.server.server import StreamServer

    async def note_modules():
        print(*sys.modules, f"collects={gc.isenabled()}", f"full={gc.get_stats()[2]['collections']}")
        server.should_exit = True

    server = StreamServer(app, on_started=note_modules, **options)
    server.run()

sys.exit(main(["serve", "--port", sys.argv[1], "--device", "cpu"], seams=Seams(run_server=run_server)))
"""


@pytest.mark.slow
def test_a_server_that_is_ready_has_imported_no_more_than_it_needs():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPEECHQC_")}
    words = [sys.executable, "-c", READY, str(free_port())]
    run = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)

    loaded = set(run.stdout.split())
    assert "speech_qc.server.server" in loaded, "the server was ready"
    assert not (TRAINING | NOT_SERVED) & loaded, "import it where it is used"
    assert {"collects=True", "full=0"} <= loaded, "the collector waits until the server has started, no longer"


def test_the_program_tells_the_collector_before_it_imports():
    program = (
        "import gc, sys, speech_qc.__main__, speech_qc.cli.worker; "
        "assert not {'typer', 'pydantic', 'numpy', 'fastapi'} & set(sys.modules); before = gc.get_threshold()[0]; "
        "sys.argv = ['speech-qc', '--version']; speech_qc.__main__.main(); print(before, gc.get_threshold()[0])"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    before, after = map(int, run.stdout.split()[-2:])
    assert before < 10_000 < after, "the collector's looks are a fifth of a start"
