"""Who may import whom, imports inside functions included, read from the source with `ast`."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("encoder_svc", "retriever_svc", "generator_svc")
ROOMS = (*SERVICES, "trainer")
TORCH = {"torch", "torchvision", "transformers", "open_clip", "timm"}

RAY_FILES = {f"{service}/deployment.py" for service in SERVICES} | {"sightline/rpc/serve_host.py", "trainer/launch.py"}


def python_files(*folders: str) -> list[Path]:
    return [
        path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) if "sightline/v1" not in str(path)
    ]


@functools.cache
def imported_modules(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    members = {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
    }
    return plain | froms | members


def imported_roots(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imported_modules(path)}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def offenders(files: list[Path], *, forbidden: set[str]) -> list[str]:
    return [f"{relative(path)} imports {sorted(bad)}" for path in files if (bad := imported_roots(path) & forbidden)]


def test_sightline_imports_no_room() -> None:
    assert offenders(python_files("sightline"), forbidden=set(ROOMS)) == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_room(service: str) -> None:
    assert offenders(python_files(service), forbidden=set(ROOMS) - {service}) == []


def test_the_trainer_imports_no_service_and_no_wire() -> None:
    files = python_files("trainer")
    assert offenders(files, forbidden={*SERVICES, "grpc"}) == []
    assert [
        relative(path) for path in files if any(m.startswith("sightline.rpc") for m in imported_modules(path))
    ] == []


def test_torch_lives_in_models_engines_and_the_trainer() -> None:
    files = [
        path
        for path in python_files("sightline", *SERVICES)
        if not relative(path).startswith("sightline/models/") and path.name != "engine.py"
    ]
    assert offenders(files, forbidden=TORCH) == []


def test_no_file_of_the_retriever_names_torch_or_the_models() -> None:
    files = python_files("retriever_svc")
    assert offenders(files, forbidden=TORCH) == []
    assert [relative(p) for p in files if any(m.startswith("sightline.models") for m in imported_modules(p))] == []


def test_importing_the_retriever_loads_no_torch() -> None:
    code = (
        "import sys, pkgutil, importlib, retriever_svc\n"
        "found = [m.name for m in pkgutil.iter_modules(retriever_svc.__path__)]\n"
        "names = [name for name in found if name not in ('__main__', 'deployment')]\n"
        "[importlib.import_module('retriever_svc.' + name) for name in names]\n"
        "assert 'servicer' in names, names\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ray_appears_only_at_its_border() -> None:
    files = [path for path in python_files("sightline", *ROOMS) if relative(path) not in RAY_FILES]
    assert offenders(files, forbidden={"ray"}) == []


def test_grpc_appears_only_where_the_wire_is() -> None:
    allowed = {"servicer.py", "__main__.py", "deployment.py", "server_index.py"}
    files = [
        path
        for path in python_files("sightline", *SERVICES)
        if path.name not in allowed
        and not path.name.endswith("_client.py")
        and not relative(path).startswith(("sightline/rpc/", "sightline/client", "sightline/testing/"))
    ]
    assert offenders(files, forbidden={"grpc"}) == []


def test_the_environment_has_one_reader() -> None:
    files = [path for path in python_files("sightline", *ROOMS) if relative(path) != "sightline/settings.py"]
    readers = [relative(path) for path in files if "os.environ" in (text := path.read_text()) or "os.getenv" in text]
    assert readers == []


def test_qdrant_appears_only_in_the_index_drivers() -> None:
    files = [
        path
        for path in python_files("sightline", *ROOMS)
        if not path.name.startswith(("edge_", "server_")) and not relative(path).startswith("sightline/testing/")
    ]
    assert offenders(files, forbidden={"qdrant_client", "qdrant_edge"}) == []


def test_shipped_code_never_imports_tests_or_testing() -> None:
    files = [path for path in python_files("sightline", *ROOMS) if not relative(path).startswith("sightline/testing/")]
    guilty = [
        relative(p) for p in files if any(m.startswith(("sightline.testing", "tests")) for m in imported_modules(p))
    ]
    assert guilty == []
