"""Habits that keep the house livable: documented, short, named for what they hold, and true to the README."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("sightline", "encoder_svc", "retriever_svc", "generator_svc", "trainer")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
WAIVED_FILES: dict[str, str] = {}
"""File -> the reason why it may be longer."""
BACKGROUND_TASKS = ("retriever_svc/rollout.py",)
"""Files whose background task must outlive a defect: it is logged and reported, and the task goes on."""


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def shipped_files() -> list[Path]:
    return [
        path
        for folder in SHIPPED
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "v1" not in path.relative_to(ROOT).parts
    ]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def undocumented(path: Path) -> list[str]:
    """Public functions, classes and methods of public classes that have no docstring."""

    def visit(node: ast.Module | ast.ClassDef, prefix: str) -> list[str]:
        found = []
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or child.name[0] == "_":
                continue
            name = f"{prefix}{child.name}"
            if not ast.get_docstring(child) and not is_exempt(child):
                found.append(name)
            if isinstance(child, ast.ClassDef):
                found += visit(child, f"{name}.")
        return found

    return visit(parsed(path), "")


def is_exempt(node: ast.AST) -> bool:
    """Overloads and property setters repeat a documented name."""
    decorators = getattr(node, "decorator_list", [])
    names = [d.attr if isinstance(d, ast.Attribute) else getattr(d, "id", "") for d in decorators]
    return any(name in {"overload", "setter", "override"} for name in names)


def test_every_public_name_has_a_docstring() -> None:
    missing = {relative(path): names for path in shipped_files() if (names := undocumented(path))}
    assert missing == {}


def test_every_module_says_what_it_is() -> None:
    silent = [
        relative(path) for path in shipped_files() if path.read_text().strip() and not ast.get_docstring(parsed(path))
    ]
    assert silent == []


def test_files_stay_under_the_limit_unless_waived_by_name() -> None:
    long = {relative(path): n for path in shipped_files() if (n := len(path.read_text().splitlines())) > MAX_FILE_LINES}
    assert long.keys() == WAIVED_FILES.keys(), long


def test_functions_stay_under_the_limit() -> None:
    long = [
        f"{relative(path)}:{node.lineno} {node.name}: {size} lines"
        for path in shipped_files()
        for node in functions(path)
        if (size := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "helpers", "common", "misc", "util", "helper"}
    assert [relative(path) for path in shipped_files() if path.stem in drawers] == []


def test_composition_roots_are_short() -> None:
    roots = [path for path in shipped_files() if path.name == "__main__.py" and path.parent.name.endswith("_svc")]
    assert len(roots) == 3
    assert [relative(path) for path in roots if len(path.read_text().splitlines()) > 60] == []


def swallows_everything(path: Path) -> bool:
    """True if a handler of any exception at all does not raise again."""
    handlers = [n for n in ast.walk(parsed(path)) if isinstance(n, ast.ExceptHandler)]
    broad = [h for h in handlers if h.type is None or getattr(h.type, "id", "") in {"Exception", "BaseException"}]
    return any(not any(isinstance(node, ast.Raise) for node in ast.walk(handler)) for handler in broad)


def test_only_process_borders_swallow_every_exception() -> None:
    border = ("sightline/rpc/", "sightline/cli/", "sightline/registry/reload", *BACKGROUND_TASKS)
    assert [relative(p) for p in shipped_files() if swallows_everything(p) and not relative(p).startswith(border)] == []


def test_nothing_is_unpickled() -> None:
    pattern = re.compile(r"\b(pickle|dill|joblib)\b\.|torch\.load\(|torch\.save\(|allow_pickle=True")
    assert [relative(path) for path in shipped_files() if pattern.search(path.read_text())] == []


def code_blocks(path: Path) -> list[str]:
    return re.findall(r"```(?:bash|sh|console)\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def documented_commands(path: Path) -> list[str]:
    joined = "\n".join(code_blocks(path)).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line and not line.startswith("#")]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


DOCUMENTS = sorted(
    path
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(path for pattern in ("docs/*.md", "*/README.md", "examples/*/README.md") for path in ROOT.glob(pattern)),
    ]
    if path.is_file()
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_documented_make_target_exists(document: Path) -> None:
    named = {
        word
        for command in documented_commands(document)
        if command.startswith("make ")
        for word in command.split()[1:]
        if "=" not in word
    }
    assert named - make_targets() == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_documented_module_exists(document: Path) -> None:
    text = "\n".join(documented_commands(document))
    modules = set(re.findall(r"python3? -m ([a-z_][\w.]*)", text))
    ours = {name for name in modules if name.split(".")[0] in {*SHIPPED, "bench", "examples"}}
    missing = [n for n in ours if not module_file(n)]
    assert missing == []


def module_file(name: str) -> bool:
    base = ROOT / name.replace(".", "/")
    return base.with_suffix(".py").is_file() or (base / "__main__.py").is_file()


def test_the_readme_shows_a_command_at_once_and_its_output_soon() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    fences = [number for number, line in enumerate(lines, start=1) if line.startswith("```")]
    assert any(line.startswith("make ") for line in lines[:15])
    assert sum(number <= 25 for number in fences) >= 3


def test_every_relative_link_in_the_documents_leads_somewhere() -> None:
    broken = [
        f"{relative(document)} -> {target}"
        for document in [*DOCUMENTS, *ROOT.glob("docs/decisions/*.md")]
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_make_help_lists_every_target_of_the_house() -> None:
    promised = [
        "help",
        "setup",
        "demo",
        "chat",
        "up",
        "down",
        "train",
        "test",
        "check",
        "lint",
        "types",
        "protos",
        "bench",
        "clean",
    ]
    listed = set(re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(promised) - listed == set()


def test_the_lock_files_name_no_host_and_hash_every_package() -> None:
    for name in ("requirements.lock", "bootstrap.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text
        pinned = re.findall(r"^[a-z0-9][\w.\-\[\],]*==", text, flags=re.MULTILINE)
        assert pinned
        assert text.count("--hash=sha256:") >= len(pinned)
