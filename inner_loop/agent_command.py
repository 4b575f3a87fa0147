"""The command line of an agent: from what the user wrote to the words that are started.

Owns: presets and templates, and refusing before anything is spent what cannot work here: unknown
names, programs that are missing or that a box would hide, variables that are not set.
Does not own: the box's mounts (`agent_box.py`) or the presets themselves (`agent_presets.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inner_loop.agent_box import (
    SYSTEM,
    WORKTREE,
    Bubblewrap,
    Mounts,
    boxed,
    check_shown,
    find_box,
    is_visible,
)
from inner_loop.agent_brief import PROMPT
from inner_loop.agent_presets import PRESETS, Preset
from inner_loop.errors import UserError, unknown
from inner_loop.home import REPOSITORY, Home
from inner_loop.record import content_hash
from inner_loop.researcher import Setup
from inner_loop.transcript import Redactor, secrets_in

_FIELD = re.compile(r"\{([a-z_]+)\}")
_FIELDS = ("prompt_file", "prompt", "worktree", "model")
_KEY_OPTION = re.compile(
    r"(?i)(?:^|\s)--?[a-z-]*(?:key|token|secret|password)(?:=|\s+)[\"']?"
    r"(?=\S*\d)[\w+=.-]{16,}[\"']?(?:\s|$)"
)
"""Such an option with a value that is no path, no field and no mere name."""
_OWN = ("train.py", "prepare.py", "task.json")
MOST_HASHED = 1 << 20
"""Bytes of a script named in the command that is part of the protocol."""


@dataclass(frozen=True)
class AgentCommand:
    """An agent that can be started here."""

    name: str
    """The program's name, for people."""
    words: tuple[str, ...]
    """With its fields; the first is the program's absolute path."""
    bubblewrap: Bubblewrap
    shown: tuple[Path, ...]
    hidden: tuple[Path, ...]
    variables: Mapping[str, str]
    """Handed to the agent as they are."""
    path: str
    home: Path
    network: bool
    identity: str
    """Hash of the template, of the scripts that it names, and of whether there is a box."""

    @property
    def is_boxed(self) -> bool:
        """Whether it sees only what it is shown."""
        return not self.bubblewrap.missing

    def worktree(self, mounts: Mounts) -> Path:
        """Where its folder is, as it sees it."""
        return WORKTREE if self.is_boxed else mounts.worktree

    @property
    def reads_stdin(self) -> bool:
        """Whether the brief comes on standard input, the command naming no other place for it."""
        return not any(f"{{{name}}}" in w for w in self.words for name in ("prompt_file", "prompt"))

    def line(self, mounts: Mounts, model: str) -> list[str]:
        """The words to start."""
        inside = self.worktree(mounts)
        fields = {
            "prompt_file": str(inside / PROMPT),
            "prompt": f"Read the file {inside / PROMPT} and do what it says.",
            "worktree": str(inside),
            "model": model,
        }
        words = [_FIELD.sub(lambda found: fields[found[1]], word) for word in self.words]
        if not self.is_boxed:
            return words
        return boxed(
            self.bubblewrap,
            words,
            mounts,
            shown=self.shown,
            hidden=self.hidden,
            network=self.network,
            home=self.home,
        )

    def environment(self, mounts: Mounts) -> dict[str, str]:
        """All its variables; on nobody's command line, where other users could read them."""
        home, temporary = (self.home, "/tmp") if self.is_boxed else (mounts.home, mounts.temporary)
        plain = {"PATH": self.path, "HOME": str(home), "TMPDIR": str(temporary)}
        return plain | {"LANG": "C.UTF-8", "TERM": "dumb", "NO_COLOR": "1"} | dict(self.variables)


def agent_command(setup: Setup) -> AgentCommand:
    """What `setup` names, checked.

    Raises:
        UserError: it can never work as it is set up.
    """
    settings, environ = setup.settings, setup.environ
    _check_no_secret(settings.command, environ)
    bubblewrap = find_box(environ)
    preset = PRESETS.get(settings.command.strip())
    words = _words(setup, preset, bubblewrap)
    program = _program(words[0], settings.command, environ.get("PATH", ""), preset)
    words = [str(program), *map(_own_file, words[1:])]
    private = _private(setup)
    paths = tuple(Path(p).expanduser().absolute() for p in settings.agent_paths)
    shown = check_shown(paths, private, REPOSITORY)
    if not bubblewrap.missing:
        _check_visible(words, shown)
        if preset and not settings.agent_network:
            raise UserError(
                f"{program.name} asks a hosted model, but its box has no network; set "
                "agent_network = true."
            )
    return AgentCommand(
        name=program.name,
        words=tuple(words),
        bubblewrap=bubblewrap,
        shown=shown,
        hidden=(*private, REPOSITORY),
        variables=_variables(settings.agent_variables, environ),
        path=environ.get("PATH", ""),
        home=_home(environ),
        network=settings.agent_network,
        identity=content_hash([preset, not bubblewrap.missing, *map(_digest, words)]),
    )


def _check_no_secret(command: str, environ: Mapping[str, str]) -> None:
    """The command is part of the track, which the ledger and every report keep."""
    is_known = Redactor(secrets_in(environ))(command) != command
    if is_known or _KEY_OPTION.search(command):
        raise UserError(
            "The command holds what looks like a key, and the ledger keeps commands; name the "
            "key's variable in agent_variables instead."
        )


def _words(setup: Setup, preset: Preset | None, bubblewrap: Bubblewrap) -> list[str]:
    template = setup.settings.command.strip()
    if not template:
        raise UserError(
            "The command researcher needs a command: a preset "
            f"({', '.join(sorted(PRESETS))}) or a command line with {{prompt_file}}."
        )
    if preset:
        chosen = preset.unboxed if bubblewrap.missing else preset.boxed
        if chosen is None:
            raise UserError(f"{template} may run in a box only, but {bubblewrap.missing}.")
        template = f"{chosen} {preset.model}" if setup.model else chosen
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise UserError(f"The command {template!r} cannot be split ({error}).") from error
    for name in (found[1] for word in words for found in _FIELD.finditer(word)):
        if name not in _FIELDS:
            raise unknown("field of a command", name, _FIELDS)
    if setup.model and not any("{model}" in word for word in words):
        raise UserError(
            f"The model '{setup.model}' would have no effect: the command does not say {{model}}."
        )
    if not setup.model and any("{model}" in word for word in words):
        raise UserError("The command says {model}, but no model is named; add --model.")
    return words


def _program(name: str, command: str, path: str, preset: Preset | None) -> Path:
    if "/" in name:
        name = str(Path(name).expanduser().absolute())
    found = shutil.which(name, path=path)
    if found:
        return Path(found)
    if preset is None and "/" not in name and command.split() == [name]:
        raise unknown("agent preset or program", name, PRESETS)
    hint = f" (see {preset.source})" if preset else ""
    raise UserError(
        f"The agent's program '{name}' is not on PATH or cannot be executed; install it{hint} or "
        "correct the command."
    )


def _own_file(word: str) -> str:
    """An existing file outside the worktree by its absolute path; any other word as it is."""
    path = Path(word).expanduser()
    is_word = not {"/", "."} & set(word)  # `agent run` means no file here that is called run
    if is_word or word.startswith("-") or word in _OWN or _FIELD.search(word):
        return word
    try:
        return str(path.absolute()) if path.is_file() else word
    except (OSError, ValueError):  # no file name at all
        return word


def _check_visible(words: list[str], shown: tuple[Path, ...]) -> None:
    for number, word in enumerate(words):
        path = Path(word)
        if number and not (path.is_absolute() and path.is_file()):
            continue
        if not is_visible(path, shown):
            raise UserError(
                f"The agent's box does not show {path}{_target(path)}; add it, or the folder it is "
                "installed in, to agent_paths."
            )


def _target(path: Path) -> str:
    real = path.resolve()
    return f" (really {real})" if real != path else ""


def _variables(names: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in names if name not in environ]
    if missing:
        raise UserError(
            f"{missing[0]} of agent_variables is not set; export it, or leave it out of the list."
        )
    return {name: environ[name] for name in names}


def _private(setup: Setup) -> tuple[Path, ...]:
    """Where ledger, runs and caches lie."""
    home = Home.from_environment(setup.environ)
    ledger = home.ledger_url.partition("sqlite:///")[2]
    found = [home.root, *([Path(ledger).absolute()] if ledger else []), setup.folder]
    return tuple(path for path in found if path is not None)


def _home(environ: Mapping[str, str]) -> Path:
    """The user's own HOME, which is empty inside; another name for it where that cannot be."""
    home = Path(environ.get("HOME") or "/")
    is_system = any(home.is_relative_to(folder) for folder in (*SYSTEM, "/proc", "/dev", "/etc"))
    if not home.is_absolute() or home == Path("/") or is_system:
        return Path("/home/agent")
    return home


def _digest(word: str) -> str:
    """A script by its content, so that another one is another track; any other word by itself."""
    path = Path(word)
    is_script = path.is_absolute() and not any(path.is_relative_to(folder) for folder in SYSTEM)
    if not is_script or not path.is_file() or path.stat().st_size > MOST_HASHED:
        return path.name if is_script else word
    if not os.access(path, os.R_OK):
        return path.name
    return hashlib.sha256(path.read_bytes()).hexdigest()
