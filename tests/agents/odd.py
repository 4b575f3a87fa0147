"""Agents that do one odd thing each, by name: `python odd.py NAME [ARGUMENT]`."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

WHAT, *REST = sys.argv[1:]
TRAIN = Path("train.py")
EDITED = TRAIN.read_text().replace("A = 1\n", "A = 2\n", 1)
DAEMON = "import os, time; os.setsid(); open('alive', 'w').close(); time.sleep(600)"


def edit(move: str = "") -> None:
    TRAIN.write_text(EDITED)
    if move:
        Path("MOVE.md").write_text(move)


def daemons() -> None:
    """Three that have left the session, whose parents are gone."""
    for _ in range(3):
        if os.fork() == 0:
            subprocess.Popen([sys.executable, "-c", DAEMON, "left-by-an-agent"])
            os._exit(0)
        os.wait()
    while not Path("alive").exists():
        time.sleep(0.01)
    edit()


def look(secret: str) -> None:
    """Says in its description what it could see."""
    seen = [p for p in secret.split(":") if Path(p).exists()]
    seen += [f"environ of {p.name}" for p in Path("/proc").glob("[0-9]*") if marked(p)]
    seen += [name for name in os.environ if name.startswith("LEAK")]
    boxed = Path.cwd() == Path("/worktree")
    for target in ("/usr/it", "/it", "/dev/it", "/etc/it", __file__) if boxed else ():
        try:
            Path(target).write_text("")
            seen.append(target)
        except OSError:
            pass
    try:
        socket.create_connection(("127.0.0.1", int(REST[1])), timeout=2).close()
        seen.append("network")
    except OSError:
        pass
    edit(f"DESCRIPTION: saw {', '.join(seen) or 'nothing'}; uid {os.getuid()}")


def marked(process: Path) -> bool:
    try:
        return b"LEAK" in (process / "environ").read_bytes()
    except OSError:
        return False


def fill() -> None:
    chunk = b"x" * (1 << 20)
    for number in range(2000):
        with Path(f"big{number}").open("wb") as file:
            for _ in range(100):
                file.write(chunk)


def prints() -> None:
    edit()
    for _ in range(100):
        sys.stdout.write("y" * (1 << 20) + "\n")
    print("end")


def repaired() -> None:
    """Breaks the fixed side first, and does better once it is told."""
    if "could not be used" in Path("PROMPT.md").read_text():
        edit("DESCRIPTION: mended")
    else:
        Path("prepare.py").write_text("EVIL = 1\n")
        edit()


def unlocked() -> None:
    edit()
    Path("deep/er").mkdir(parents=True)
    Path("deep/er/file").write_text("x")
    Path("deep/er").chmod(0)
    Path("deep").chmod(0)


def deep() -> None:
    """More folders in folders than a path or a call stack can hold."""
    edit()
    for _ in range(1200):
        Path("dddd").mkdir()
        os.chdir("dddd")


ODD = {
    "edit": edit,
    "daemons": daemons,
    "look": lambda: look(REST[0]),
    "fill": fill,
    "repaired": repaired,
    "deep": deep,
    "waits": lambda: (deep(), time.sleep(600)),
    "core": lambda: (edit(), Path(os.fsdecode(b"core\xff.bin")).touch()),
    "blanks": lambda: edit("\n" * (1 << 20)),
    "unlocked": unlocked,
    "nothing": lambda: print("I am done."),
    "fails": lambda: sys.exit("not logged in"),
    "sleeps": lambda: time.sleep(600),
    "prints": prints,
    "prepare": lambda: (edit(), Path("prepare.py").write_text("EVIL = 1\n")),
    "moved": lambda: (edit(), Path("task.json").unlink()),
    "deletes": TRAIN.unlink,
    "link": lambda: (TRAIN.unlink(), TRAIN.symlink_to(REST[0])),
    "fifo": lambda: (TRAIN.unlink(), os.mkfifo("train.py")),
    "folder": lambda: (TRAIN.unlink(), TRAIN.mkdir()),
    "huge": lambda: TRAIN.write_bytes(b"#" * (2 << 20)),
    "bytes": lambda: TRAIN.write_bytes(b"A = '\xff'\n"),
    "locked": lambda: (edit(), TRAIN.chmod(0)),
    "broken": lambda: TRAIN.write_text("A = (\n"),
    "secret": lambda: TRAIN.write_text(f"A = '{os.environ['THE_KEY']}'\n"),
    "tells": lambda: (print(os.environ["THE_KEY"]), edit(f"DESCRIPTION: {os.environ['THE_KEY']}")),
    "move": lambda: Path("MOVE.md").write_text(REST[0].replace("|", "\n")),
    "both": lambda: edit("ACTION: rerun"),
    "says": lambda: edit(REST[0].replace("|", "\n")),
    "notes": lambda: (edit(), Path("notes.md").write_text("think small\n")),
    "scratch": lambda: (
        edit(),
        Path("run.log").write_text("x"),
        Path("results.tsv").write_text(""),
    ),
    "other": lambda: (
        TRAIN.write_text(Path("train.other.py").read_text() + "C = 3\n"),
        Path("MOVE.md").write_text("VERDICT: discard"),
    ),
    "stdin": lambda: edit(f"DESCRIPTION: {sys.stdin.readline()[:40]}"),
    "home": lambda: (edit(), print(sorted(os.environ), list(Path.home().iterdir()))),
}

if __name__ == "__main__":
    ODD[WHAT]()
