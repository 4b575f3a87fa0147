"""Which researchers can work here, and what is missing for the others.

Owns: the rows of `doctor` about researchers. No request is made that costs anything: of a provider
only the key's presence is looked at, of a local server only its list of models.
Does not own: the researchers, or checks of the machine (`doctor.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import requests

from analysis.machine_report import Check, State
from analysis.wording import OFFLINE
from inner_loop.agent_box import box_report
from inner_loop.command import PRESETS
from inner_loop.errors import UserError
from inner_loop.records import Track
from inner_loop.researcher import Setup, make_researcher

KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
PROBE_SECONDS = 0.5


class Server(NamedTuple):
    """A place where a local model is usually served."""

    name: str
    url: str


LOCAL = (
    Server("Ollama", "http://localhost:11434/v1"),
    Server("vLLM or llama.cpp for Python", "http://localhost:8000/v1"),
    Server("llama.cpp", "http://localhost:8080/v1"),
    Server("LM Studio", "http://localhost:1234/v1"),
)


def researcher_checks(environ: Mapping[str, str], local: tuple[Server, ...] = LOCAL) -> list[Check]:
    """One row for each kind of researcher that a track can name."""
    return [
        Check(name="catalog", found=f"{OFFLINE}: no key, no network", state="ok"),
        *(_provider(kind, environ) for kind in KEYS),
        *_servers(local),
        *_agents(),
        Check(name="replay", found="plays a recorded list of moves (--model FILE)", state="ok"),
    ]


def own_researcher(track: Track, environ: Mapping[str, str]) -> Check:
    """Whether the track's own researcher can work here; what is missing is a problem."""
    setup = Setup.of(track)
    name = f"researcher {track.researcher}"
    try:
        make_researcher(Setup(setup.kind, setup.model, setup.settings, environ=environ))
    except UserError as error:
        return Check(name=name, found="cannot work here", state="problem", remedy=str(error))
    return Check(name=name, found="can work here", state="ok")


def _row(name: str, found: str, missing: str = "") -> Check:
    state: State = "missing" if missing else "ok"
    return Check(name=name, found=found, state=state, remedy=missing)


def _provider(kind: str, environ: Mapping[str, str]) -> Check:
    try:
        sdk = f"SDK {version(kind)}"
    except PackageNotFoundError:
        return _row(kind, "no SDK", f"Install it: `pip install {kind}`.")
    key = KEYS[kind]
    if environ.get(key):
        return _row(kind, f"{sdk}, {key} is set (not tried: a request costs money)")
    return _row(kind, f"{sdk}, no key", f"Set {key}, or name a compatible server by --base-url.")


def _servers(local: tuple[Server, ...]) -> Iterator[Check]:
    with ThreadPoolExecutor(len(local) or 1) as pool:
        models = list(pool.map(_models, local))
    answering = [(server, names) for server, names in zip(local, models, strict=True) if names]
    for server, names in answering:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        yield _row("openai, local", f"{server.url} serves {shown} (use --base-url)")
    if not answering:
        missing = "Start Ollama, vLLM, llama.cpp or the like, then give its address to --base-url."
        yield _row("openai, local", "no server answers on this machine", missing)


def _models(server: Server) -> list[str]:
    """The models a server lists; none where none answers."""
    try:
        found = requests.get(f"{server.url}/models", timeout=PROBE_SECONDS).json()
        return [str(model["id"]) for model in found["data"]]
    except (requests.RequestException, ValueError, TypeError, KeyError):
        return []


def _agents() -> Iterator[Check]:
    found = [name for name, preset in PRESETS.items() if shutil.which(preset.executable)]
    box = box_report()
    sort = "in a box" if not box else f"without a box, results untrusted: {box}"
    if found:
        yield _row("command", f"{', '.join(found)} on PATH, {sort}")
    else:
        missing = "Install one of them, or give --command any command line with {prompt_file}."
        yield _row("command", f"none of {', '.join(PRESETS)} on PATH; would run {sort}", missing)
