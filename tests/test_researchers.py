"""What doctor says about researchers: usable here, or what is missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from inner_loop.tracks import load_track
from outer_loop import researchers
from outer_loop.researchers import Server, own_researcher, researcher_checks
from outer_loop.track_choice import chosen_track

KEYED = {"ANTHROPIC_API_KEY": "sk-ant-secret-0123456789", "PATH": ""}


class _Models(BaseHTTPRequestHandler):
    body = json.dumps({"data": [{"id": f"model-{n}"} for n in range(5)]}).encode()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    serving = HTTPServer(("127.0.0.1", 0), _Models)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}/v1"
    serving.shutdown()
    serving.server_close()


def rows(environ: dict[str, str], *local: Server) -> dict[str, researchers.Check]:
    return {check.name: check for check in researcher_checks(environ, local)}


def test_every_kind_has_a_row_and_what_is_missing_says_what_to_do() -> None:
    found = rows({"PATH": ""})
    assert list(found) == ["catalog", "anthropic", "openai", "openai, local", "command", "replay"]
    assert found["catalog"].state == found["replay"].state == "ok"
    for kind in ("anthropic", "openai", "openai, local"):
        assert found[kind].state == "missing"
        assert found[kind].remedy


def test_a_key_makes_a_provider_usable_and_is_not_shown() -> None:
    found = rows(KEYED)
    assert (found["anthropic"].state, found["openai"].state) == ("ok", "missing")
    assert KEYED["ANTHROPIC_API_KEY"] not in repr(found)


def test_a_server_on_this_machine_is_found_with_its_models(server: str) -> None:
    nobody = Server("nobody", "http://127.0.0.1:9/v1")
    row = rows({}, nobody, Server("ours", server))["openai, local"]
    assert row.state == "ok"
    assert row.found == f"{server} serves model-0, model-1, model-2, ... (use --base-url)"


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"data": [{}]}', b'{"data": 3}', b""])
def test_a_server_that_says_something_else_is_none(
    server: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Models, "body", body)
    assert rows({}, Server("ours", server))["openai, local"].state == "missing"


def test_an_agent_on_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tmp_path / "codex"
    agent.write_text("#!/bin/sh\n")
    agent.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    row = rows({})["command"]
    assert row.state == "ok"
    assert row.found.startswith("codex on PATH, ")


def test_the_tracks_own_researcher_is_a_problem_only_if_it_cannot_work() -> None:
    assert own_researcher(load_track("tiny-cpu"), {}).state == "ok"
    track = chosen_track("tiny-cpu", {"researcher": "anthropic", "model": "m"})
    missing = own_researcher(track, {})
    assert missing.state == "problem"
    assert "ANTHROPIC_API_KEY" in missing.remedy
    assert own_researcher(track, KEYED).state == "ok"
