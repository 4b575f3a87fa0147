"""The docs cannot rot: commands exist, the README's table is the committed measurement."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import typer.main

from analysis.story import Story
from outer_loop.cli import app

ROOT = Path(__file__).parent.parent
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_command_and_option_has_help() -> None:
    for command in COMMANDS.values():
        assert command.help
        for parameter in command.params:
            assert getattr(parameter, "help", None) or parameter.name == "help", parameter.name


def test_the_readme_names_every_command_and_only_those() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"metaresearch (\w+)", "\n".join(re.findall(r"(?m)^    .*$", text))))
    assert named == set(COMMANDS)


def test_the_readmes_table_is_the_committed_measurement() -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    story = Story.model_validate_json((ROOT / "benchmarks" / "demo.json").read_text())
    assert module.render(story) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / "benchmarks" / "staircase.svg").read_text().startswith("<svg")


def test_the_readmes_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
