"""The import arrows of DESIGN: one way, one home per dependency."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("inner_loop", "analysis", "outer_loop")
MAY_READ = {
    *("inner_loop.records", "inner_loop.proposal", "inner_loop.program", "inner_loop.ledger"),
    *("inner_loop.errors", "inner_loop.settings"),
}
HOMES = {
    "torch": {"train.py", "prepare.py"},
    "git": {"inner_loop/repo.py"},
    "anthropic": {"inner_loop/chat.py"},
    "openai": {"inner_loop/chat.py"},
    "httpx2": {"inner_loop/chat.py"},
    "sqlalchemy": {"inner_loop/ledger.py"},
    "markdown_it": {"inner_loop/program.py"},
    "typer": {"outer_loop/cli.py", "outer_loop/options.py"},
    "ray": {"inner_loop/ray_executor.py"},
}
HOME_FOLDERS = {"matplotlib": "analysis", "jinja2": "analysis", "pandas": "analysis"}


def sources() -> list[Path]:
    ours = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py")]
    return [ROOT / "train.py", ROOT / "prepare.py", *ours]


def imports(path: Path) -> set[str]:
    """Modules a file imports anywhere in it; `from a import b` counts as `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    package = name_of(path).split("/")[0]
    used = imports(path)
    inside = {m for m in used if m.split(".")[0] in PACKAGES}
    if package in ("train.py", "prepare.py"):
        # the corpus is fetched and tokenised once, outside any box: only prepare.py's main does it
        once = {m for m in inside if package == "prepare.py" and m.startswith("inner_loop.corpora")}
        assert inside - once <= ({"inner_loop"} if once else set())
        assert package != "prepare.py" or "train" not in used
    if package == "inner_loop":
        assert not {m for m in inside if not m.startswith("inner_loop")}
    if package == "analysis":
        outside = {m for m in inside if not m.startswith("analysis")}
        allowed = {m for m in outside if any(m == a or m.startswith(f"{a}.") for a in MAY_READ)}
        assert outside - allowed <= {"inner_loop"}
    if package in PACKAGES:
        assert not used & {"train", "prepare"}


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_dependency_has_one_home(path: Path) -> None:
    tops = {m.split(".")[0] for m in imports(path)}
    for library, homes in HOMES.items():
        assert library not in tops or name_of(path) in homes, library
    for library, folder in HOME_FOLDERS.items():
        assert library not in tops or name_of(path).startswith(folder), library


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_module_opens_by_saying_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", [p for p in sources() if p.parent != ROOT], ids=name_of)
def test_a_file_stays_under_400_lines(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= 400


def test_help_loads_nothing_heavy() -> None:
    heavy = "torch matplotlib pandas scipy sqlalchemy git pydantic numpy"
    code = (
        "import sys; from outer_loop.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        f"print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
