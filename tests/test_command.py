"""The `command` researcher with real scripts as agents, boxed and not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inner_loop import agent_folder, agent_run, command, position
from inner_loop.agent_box import SYSTEM, box_report
from inner_loop.agent_folder import remove
from inner_loop.agent_presets import PRESETS
from inner_loop.command import CommandResearcher
from inner_loop.edits import apply_edits
from inner_loop.errors import UserError
from inner_loop.line_edits import edits_between
from inner_loop.loop import Session
from inner_loop.meter import Cap, Meter
from inner_loop.program import parse_program
from inner_loop.records import Budget, Experiment, Measured, Move, Track
from inner_loop.researcher import KINDS, Brief, Setup, make_researcher
from inner_loop.settings import Settings
from inner_loop.transcript import Transcript, read_exchange
from tests.test_loop import session as session  # a fixture
from tests.test_loop import work

AGENTS = Path(__file__).parent / "agents"
NO_BOX = box_report()
SOURCE = "A = 1\nB = 1\n"
PROGRAM = parse_program(b"- improve\r\n- \xe2\x9c\x93 be bold\n", "p")
SHA = "0123456789abcdef0123456789abcdef01234567"


def python_paths() -> tuple[str, ...]:
    """What a box must show for this Python to start in it."""
    found = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
    return tuple(p for p in found if not any(Path(p).is_relative_to(s) for s in SYSTEM))


both = pytest.mark.parametrize("environ", ["boxed", "unboxed"], indirect=True)


@pytest.fixture
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """An environment with bubblewrap on its PATH, or without; by default with it, if it works."""
    wanted = getattr(request, "param", "any")
    if wanted == "boxed" and NO_BOX:
        pytest.skip(NO_BOX)
    empty = tmp_path / "bin"
    empty.mkdir()
    path = str(empty) if wanted == "unboxed" else os.environ["PATH"]
    return {"PATH": path, "HOME": str(tmp_path / "me"), "METARESEARCH_HOME": str(tmp_path / "runs")}


Make = Callable[..., CommandResearcher]


@pytest.fixture
def make(tmp_path: Path, environ: Mapping[str, str]) -> Make:
    """A researcher whose agent is `tests/agents/odd.py WORDS`."""
    worktree = tmp_path / "worktree"
    worktree.mkdir()
    (worktree / "train.py").write_text(SOURCE)
    (worktree / "prepare.py").write_text("FIXED = 1\n")
    (worktree / "task.json").write_text("{}")
    (worktree / ".git").write_text("gitdir: elsewhere\n")

    def build(*words: str, extra: Mapping[str, str] | None = None, **fields: object) -> object:
        line = f"{sys.executable} -I -S {AGENTS / 'odd.py'} " + " ".join(words)
        settings = Settings(
            **{"command": line, "agent_paths": (*python_paths(), str(AGENTS))} | fields  # type: ignore[arg-type]
        )
        return CommandResearcher(
            Setup(
                "command",
                settings=settings,
                run_id="r",
                folder=tmp_path / "runs" / "r",
                worktree=worktree,
                environ={**environ, **(extra or {})},
            )
        )

    return build  # type: ignore[return-value]


def brief(**fields: object) -> Brief:
    return Brief(
        **{  # type: ignore[arg-type]
            "program": PROGRAM,
            "train_py": SOURCE,
            "base_commit": SHA,
            "tip_commit": SHA,
            "baseline_bpb": 2.8,
            "tip_bpb": 2.8,
            "history": (),
            "facts": ("Begin.",),
            "experiments_left": 3,
            "move_number": 1,
            "seed": 1,
        }
        | fields
    )


def ask(researcher: CommandResearcher, asked: Brief | None = None) -> Move:
    return asyncio.run(researcher.next_move(asked or brief()))


def experiment(status: str = "keep", commit: str = "f" * 40) -> Experiment:
    return Experiment(
        run_id="r",
        index=1,
        kind="edit",
        commit=commit,
        tree="1" * 40,
        parent_commit=SHA,
        seed=1,
        status=status,  # type: ignore[arg-type]
        measured=Measured(search_bpb=2.7),
    )


def exchanges(tmp_path: Path) -> str:
    """All transcripts of the run as text."""
    transcript = Transcript(tmp_path / "runs" / "r")
    return "".join(read_exchange(p).model_dump_json() for p in transcript.paths())


# --- what a call means ------------------------------------------------------------------------


@both
def test_the_change_to_train_py_is_the_move(make: Make, environ: Mapping[str, str]) -> None:
    move = ask(make("edit"))
    assert (move.kind, apply_edits(SOURCE, move.edits)) == ("edit", "A = 2\nB = 1\n")
    assert move.description == f"edit by {Path(sys.executable).name}"
    assert move.untrusted == bool(box_report(environ))
    assert move.usage.calls == 0


def test_move_md_says_the_rest(make: Make) -> None:
    said = "'DESCRIPTION: two|HYPOTHESIS: more|CITES: I-0123abcd|ACTION: edit|VERDICT: keep'"
    move = ask(make("says", said))
    assert (move.kind, move.description, move.hypothesis) == ("edit", "two", "more")
    assert (move.cites, move.verdict) == (("I-0123abcd",), "keep")


@pytest.mark.parametrize("kind", ["rerun", "return"])
def test_a_short_commit_of_the_run_is_completed(make: Make, kind: str) -> None:
    move = ask(make("move", f"'ACTION: {kind} 0123456'"))
    assert (move.kind, move.commit) == (kind, SHA)


def test_an_overturned_verdict_builds_on_the_other_train_py(make: Make) -> None:
    kept = brief(
        train_py="A = 9\nB = 1\n", overturned_train_py=SOURCE, history=(experiment("keep"),)
    )
    move = ask(make("other"), kept)
    assert move.verdict == "discard"
    assert apply_edits(SOURCE, move.edits) == SOURCE + "C = 3\n"


def test_notes_are_kept_and_other_files_are_not_but_listed(make: Make, tmp_path: Path) -> None:
    assert ask(make("notes")).notes == "think small\n"
    move = ask(make("scratch"), brief(move_number=2))
    assert (move.kind, move.notes) == ("edit", None)
    assert "left without effect: run.log" in exchanges(tmp_path).replace("\\n", "\n")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nothing"], "it changed nothing and asked for nothing"),
        (["fails"], "it exited with code 1: not logged in"),
        (["prepare"], "prepare.py was changed; only train.py may be"),
        (["moved"], "task.json was changed; only train.py may be"),
        (["deletes"], "train.py was deleted"),
        (["link", "prepare.py"], "train.py is a symbolic link; links are not followed"),
        (["fifo"], "train.py is no longer a regular file"),
        (["folder"], "train.py is no longer a regular file"),
        (["huge"], "train.py is larger than 1 MiB"),
        (["bytes"], "train.py is not UTF-8 text (byte 5)"),
        (["both"], "MOVE.md asks for a rerun, but train.py was changed too"),
        (["move", "'ACTION: dance'"], "the ACTION in line 1"),
        (["move", "'VERDICT: keep'"], "it gave only a verdict"),
        (["move", "'<<<<<<< SEARCH|A|=======|B|>>>>>>> REPLACE'"], "MOVE.md holds SEARCH/REPLACE"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_used_says_why(make: Make, words: list[str], reason: str) -> None:
    move = ask(make(*words))
    assert move.kind == "unusable"
    assert reason in move.description
    assert not move.edits


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_locked_train_py_cannot_be_read(make: Make) -> None:
    assert "cannot be read" in ask(make("locked")).description


@both
def test_a_link_to_a_secret_is_never_read(make: Make, tmp_path: Path) -> None:
    researcher = make("link", str(tmp_path / "key"))
    (tmp_path / "key").write_text("A = 'the key of somebody'\n")
    assert ask(researcher).kind == "unusable"
    assert "of somebody" not in exchanges(tmp_path)


def test_it_is_told_once_what_to_put_right(make: Make) -> None:
    move = ask(make("repaired"))
    assert (move.kind, move.description, move.repaired) == ("edit", "mended", 1)


def test_a_repair_of_the_loop_shows_the_rejected_file(make: Make, tmp_path: Path) -> None:
    researcher = make("broken")
    move = ask(researcher)
    assert move.kind == "edit"  # the loop finds the syntax error, and asks again
    ask(researcher, brief(repair="the edited train.py is not valid Python"))
    assert "=== train.rejected.py\\nA = (\\n" in exchanges(tmp_path)


@pytest.mark.parametrize(
    ("words", "kind"),
    [(["edit"], "close"), (["nothing"], "close"), (["move", "'ACTION: return 0123456'"], "return")],
)
def test_after_the_last_experiment_only_a_verdict_or_a_return_counts(
    make: Make, words: list[str], kind: str
) -> None:
    move = ask(make(*words), brief(experiments_left=0, history=(experiment(),)))
    assert (move.kind, move.edits) == (kind, ())


# --- limits -----------------------------------------------------------------------------------


@both
def test_it_is_killed_at_its_time_limit(make: Make) -> None:
    began = time.monotonic()
    move = ask(make("sleeps", agent_minutes=0.02))
    assert (move.kind, move.description) == (
        "unusable",
        "it was killed after 0.02 minutes, its time limit",
    )
    assert time.monotonic() - began < 15


@both
def test_nothing_it_started_is_left(make: Make) -> None:
    assert ask(make("daemons")).kind == "edit"
    assert not named("left-by-an-agent")


def test_a_flood_of_output_is_cut_and_its_end_kept(make: Make, tmp_path: Path) -> None:
    assert ask(make("prints")).description == "end"
    text = exchanges(tmp_path)
    assert len(text) < 4 * agent_run.KEPT_OUTPUT
    assert "bytes left out" in text


def test_a_full_disk_is_prevented(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_run, "FOLDER_MB", 150)
    monkeypatch.setattr(agent_run, "CHECK_SECONDS", 0.05)
    assert "writing more than 150 MiB" in ask(make("fill")).description


@both
def test_its_folder_is_removed_whatever_its_permissions(make: Make, tmp_path: Path) -> None:
    assert ask(make("unlocked")).kind == "edit"
    assert not list((tmp_path / "runs" / "r" / "agent").iterdir())


@both
def test_folders_however_deep_are_removed_and_the_move_counts(make: Make, tmp_path: Path) -> None:
    place = tmp_path / "runs" / "r" / "agent"
    (place / "0001-1").mkdir(parents=True)
    deep_folders(place / "0001-1", 1500)  # as an older driver may have left them
    assert ask(make("deep")).kind == "edit"
    assert not list(place.iterdir())


def test_folders_too_deep_to_be_watched_end_a_call(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_run, "CHECK_SECONDS", 0.1)
    assert "200 levels of folders" in ask(make("waits")).description


def deep_folders(top: Path, levels: int) -> None:
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("abcd", dir_fd=fd)
        inner = os.open("abcd", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def test_removing_follows_no_link_and_raises_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o500)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(kept)
    (tmp_path / "gone" / os.fsdecode(b"\xff")).touch()
    (tmp_path / "gone" / "locked").mkdir(mode=0)
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "file").touch()
    for name in ("gone", "link", "file", "nothing"):
        remove(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert kept.stat().st_mode & 0o777 == 0o500


def test_what_cannot_be_removed_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0001-1").mkdir()
    (tmp_path / "0001-1" / "immutable").touch()
    monkeypatch.setattr(agent_folder, "remove", lambda _: None)
    with agent_folder.agent_folder(tmp_path, "0001-1") as mounts:
        assert list(mounts.worktree.iterdir()) == []
    aside = next(p for p in tmp_path.iterdir() if p.name.startswith("0001-1.left-"))
    assert (aside / "immutable").exists()


def test_a_name_that_is_no_text_is_listed_all_the_same(make: Make, tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the record
        assert ask(make("core")).kind == "edit"
    (path,) = Transcript(tmp_path / "runs" / "r").paths()
    reply = read_exchange(path).reply
    assert reply is not None
    assert "left without effect: core\\xff.bin\n" in reply.text


def test_a_megabyte_of_blanks_in_move_md_is_read_at_once(make: Make) -> None:
    began = time.monotonic()
    assert ask(make("blanks")).kind == "edit"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("line", ["ACTION: edit", "- **Action:** `edit`.", "> ACTION : EDIT\r"])
def test_an_edit_may_be_called_one_in_any_dress(line: str) -> None:
    assert command._ACTION_EDIT.sub("", f"a\n{line}\nb") in ("a\n\nb", "a\n\r\nb")


@both
def test_a_cancelled_call_leaves_nothing(make: Make, tmp_path: Path) -> None:
    async def main() -> None:
        task = asyncio.create_task(make("sleeps").next_move(brief()))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not list((tmp_path / "runs" / "r" / "agent").iterdir())
    assert not named("sleeps")


DRIVER = """
import asyncio, sys
from pathlib import Path
from inner_loop.agent_run import run_agent
folder = Path(sys.argv[1])
print("ready", flush=True)
call = run_agent(
    sys.argv[2:], folder=folder, environment={}, cwd=folder, stdin=None, seconds=60
)
asyncio.run(call)
"""


def test_an_agent_dies_with_its_driver(tmp_path: Path) -> None:
    agent = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", "orphan-agent"]
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), *agent], stdout=subprocess.PIPE
    )
    assert driver.stdout is not None
    driver.stdout.readline()
    wait_until(lambda: len(named("orphan-agent")) > 2)  # driver, launcher, agent
    driver.kill()
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: not named("orphan-agent"))


def named(word: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if word in (p.info["cmdline"] or ())]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- what it sees and says --------------------------------------------------------------------


def test_a_key_reaches_neither_the_record_nor_train_py(make: Make, tmp_path: Path) -> None:
    handed = {"extra": {"THE_KEY": "k-123456789"}, "agent_variables": ("THE_KEY",)}
    move = ask(make("tells", **handed))
    assert (move.kind, move.description) == ("edit", "[redacted]")
    stolen = ask(make("secret", **handed), brief(move_number=2))
    assert "holds a key" in stolen.description
    assert "k-123456789" not in exchanges(tmp_path)


@both
def test_it_gets_listed_variables_and_an_empty_home(make: Make) -> None:
    move = ask(make("home", extra={"MINE": "1", "YOURS": "1"}, agent_variables=("MINE",)))
    assert "'MINE'" in move.description
    assert "YOURS" not in move.description
    assert move.description.endswith("[]")


def test_without_a_place_for_the_brief_it_comes_on_standard_input(make: Make) -> None:
    move = ask(make("stdin"))
    assert move.description.startswith("You are the researcher")


def test_it_reads_the_submitted_bytes_and_no_git(make: Make, tmp_path: Path) -> None:
    ask(make("edit"))
    text = exchanges(tmp_path)
    assert "=== program.md\\n- improve\\r\\n- ✓ be bold\\n" in text
    assert "gitdir" not in text


def test_a_killed_driver_does_not_start_an_agent_twice(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(make("repaired"))

    async def never(*_: object, **__: object) -> None:
        raise AssertionError("started again")

    monkeypatch.setattr(command, "run_agent", never)
    assert ask(make("repaired")) == first
    with pytest.raises(AssertionError, match="started again"):
        ask(make("repaired"), brief(move_number=2))


# --- set-up -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"command": ""}, "needs a command: a preset (aider, claude,"),
        ({"command": "claud"}, "Did you mean 'claude'?"),
        ({"command": "nowhere-to-be-found {prompt_file}"}, "is not on PATH"),
        ({"command": "./nowhere {prompt_file}"}, "is not on PATH or cannot be executed"),
        ({"command": "claude"}, "see https://code.claude.com"),
        ({"command": "sh -c 'x"}, "cannot be split"),
        ({"command": f"{sys.executable} {{promt_file}}"}, "Did you mean 'prompt_file'?"),
        ({"command": f"{sys.executable} {{model}}"}, "no model is named"),
        ({"agent_variables": ("NOT_SET_HERE",)}, "NOT_SET_HERE of agent_variables is not set"),
        ({"agent_paths": ("/nowhere/at/all",)}, "/nowhere/at/all of agent_paths does not exist"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_spent(
    make: Make, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        make("edit", **fields)
    assert words in str(caught.value)


def test_what_it_must_not_see_cannot_be_listed(make: Make, tmp_path: Path) -> None:
    (tmp_path / "runs" / "cache").mkdir(parents=True)
    (tmp_path / "door").symlink_to(tmp_path / "runs" / "cache")
    for path in ("/", tmp_path, tmp_path / "runs" / "cache", tmp_path / "door", AGENTS.parents[1]):
        with pytest.raises(UserError, match="where it must not look"):
            make("edit", agent_paths=(str(path),))


@pytest.mark.parametrize(
    "caps",
    [
        {"budget": Budget(experiments=3, usd=1.0)},
        {"meter": Meter(Cap("night", usd=1.0))},
        {"meter": Meter(Cap("night", tokens=0))},
    ],
)
def test_a_cap_that_cannot_be_held_is_refused(caps: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="cannot be held for a coding agent"):
        make_researcher(Setup("command", **caps))
    assert KINDS["command"].endswith("CommandResearcher")


@pytest.mark.parametrize(
    "words",
    [
        "{prompt_file} --api-key k-from-the-environment",
        "{prompt_file} --header=sk-ant-api03-abcdefghij1234567890",
        "--api-key=0123456789abcdef0123 {prompt_file}",
        "-token 'f00df00df00df00d1' {prompt_file}",
    ],
)
def test_a_key_in_the_command_is_refused_and_not_repeated(make: Make, words: str) -> None:
    with pytest.raises(UserError, match="agent_variables instead") as caught:
        make(words, extra={"MY_API_KEY": "k-from-the-environment"})
    assert not any(word in str(caught.value) for word in ("k-from", "sk-ant", "0123", "f00d"))


@pytest.mark.parametrize(
    "words", ["--key {prompt_file}", "--max-token 16000", "--api-key-variable ANTHROPIC_API_KEY"]
)
def test_words_that_only_look_a_little_like_keys_stay(make: Make, words: str) -> None:
    assert make(words).protocol


def test_a_word_of_the_command_is_a_file_only_if_it_looks_like_one(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run", "rules.md"):
        (tmp_path / name).write_text("x")
    shown = (*python_paths(), str(AGENTS), str(tmp_path / "rules.md"), str(tmp_path / "run"))
    words = make("run rules.md ./run", agent_paths=shown)._agent.words
    assert words[-3:] == ("run", str(tmp_path / "rules.md"), str(tmp_path / "run"))


@pytest.mark.skipif(bool(NO_BOX), reason=NO_BOX or "bubblewrap works")
def test_with_and_without_a_box_are_two_tracks(make: Make, tmp_path: Path) -> None:
    boxed, unboxed = (make("edit", extra=extra) for extra in ({}, {"PATH": str(tmp_path)}))
    assert (boxed._agent.is_boxed, unboxed._agent.is_boxed) == (True, False)
    assert boxed._agent.words == unboxed._agent.words
    assert boxed.protocol != unboxed.protocol


def test_another_script_under_the_same_name_is_another_track(make: Make, tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text("one")
    fields = {
        "command": f"{sys.executable} {script} {{prompt_file}}",
        "agent_paths": (*python_paths(), str(script)),
    }
    first, same = (make(**fields).protocol for _ in range(2))
    script.write_text("two")
    assert first == same != make(**fields).protocol


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_command_with_a_place_for_the_brief(name: str) -> None:
    preset = PRESETS[name]
    assert preset.source.startswith("https://")
    assert "{model}" in preset.model
    for line in filter(None, (preset.boxed, preset.unboxed)):
        assert line.split()[0] == preset.executable
        assert not set("|;&<>$`") & set(line)


# --- edits ------------------------------------------------------------------------------------

lines = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "\n", "x = 1\n"]), max_size=30)


@given(lines, lines, st.sampled_from(["", "end"]))
def test_edits_between_two_files_are_exact(old: list[str], new: list[str], end: str) -> None:
    before, after = "".join(old) + "first\n", "".join(new) + end
    text = before
    for edit in edits_between(before, after):
        assert text.count(edit.search) == 1
        text = text.replace(edit.search, edit.replace)
    assert text == after


def test_edits_are_short_where_they_can_be() -> None:
    old = "".join(f"LINE_{n} = {n}\n" for n in range(100))
    (edit,) = edits_between(old, old.replace("LINE_50 = 50", "LINE_50 = 51"))
    assert edit.search == "LINE_49 = 49\nLINE_50 = 50\nLINE_51 = 51\n"
    assert edits_between(old, old) == ()


# --- a whole run ------------------------------------------------------------------------------


@both
def test_the_documented_script_agent_works_a_whole_run(
    session: Callable[..., Session], tmp_path: Path, environ: Mapping[str, str], quick: Track
) -> None:
    settings = Settings(
        command=f"{sys.executable} {AGENTS / 'doubler.py'} {{prompt_file}}",
        agent_paths=(*python_paths(), str(AGENTS)),
    )
    folder = tmp_path / "T-1-p-r0"
    researcher = CommandResearcher(
        Setup(
            "command",
            settings=settings,
            run_id="T-1-p-r0",
            folder=folder,
            worktree=folder / "worktree",
            environ=environ,
        )
    )
    run = session(researcher, experiments=2)
    run.baseline_bpb = 3.0
    assert work(run) == [("double A", "keep"), ("double B", "keep"), ("confirm", None)]
    assert (folder / "worktree" / "train.py").read_text() == "A = 2\nB = 2\n"
    moves = run.desk.ledger.moves(run.run.id)
    assert [m.kind for m in moves] == ["edit", "edit", "close"]
    assert {m.untrusted for m in moves} == {bool(box_report(environ))}
    assert [p.name for p in Transcript(folder).paths()][:2] == ["0001-1.json.gz", "0002-1.json.gz"]


def test_an_agent_that_breaks_the_syntax_gets_one_repair_turn(
    session: Callable[..., Session], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(position, "MAX_IDLE_MOVES", 1)
    run = session(make("broken"), experiments=1)
    work(run)
    moves = run.desk.ledger.moves(run.run.id)
    assert {m.kind for m in moves} == {"unusable"}
    assert "not valid Python" in moves[0].description
    assert moves[0].repaired == 1


# --- the page ---------------------------------------------------------------------------------


def test_the_page_shows_the_presets_and_the_script_as_they_are() -> None:
    page = (Path(__file__).parent.parent / "docs" / "agents.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        assert f"| `{name}` | `{preset.boxed}` |" in page
        assert preset.source in page
        assert preset.unboxed is None or preset.unboxed in page
    script = (AGENTS / "doubler.py").read_text(encoding="utf-8").partition('"""\n\n')[2]
    assert script in page
