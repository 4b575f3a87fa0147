"""The git side of runs: one bare repository per home, a branch and a worktree per run.

Owns: base commits, edit commits, refs of discarded experiments, diffs, worktrees. Commits are made
with git's plumbing: objects and refs, no index, so a killed driver leaves no index.lock in the way.
They carry a fixed author and date, so equal edits give equal commits; when things happened is in
the ledger.
Does not own: which commit is kept (`loop.py`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inner_loop.errors import UserError

if TYPE_CHECKING:
    import git

_AUTHOR = "metaresearch"
_EMAIL = "harness@metaresearch.invalid"
_DATE = "2026-01-01T00:00:00+0000"


class Commit(NamedTuple):
    """A commit and its tree, as full hex names."""

    sha: str
    tree: str


class Repository:
    """A bare git repository, made if missing.

    Raises:
        UserError: there is no git, or the folder is not a usable repository.
    """

    def __init__(self, path: Path) -> None:
        if shutil.which("git") is None:
            raise UserError("git is not installed or not on PATH; install git and run again.")
        import git

        self.path = path
        try:
            if not (path / "HEAD").exists():
                git.Repo.init(path, bare=True, mkdir=True, initial_branch="main")
            self._repo: git.Repo = git.Repo(path)
        except (git.InvalidGitRepositoryError, git.NoSuchPathError) as error:
            raise UserError(
                f"{path} is not a git repository; move it away and run again."
            ) from error
        self._env = {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", _AUTHOR), ("EMAIL", _EMAIL), ("DATE", _DATE))
        }

    def close(self) -> None:
        """End git's helper processes."""
        self._repo.close()

    def remove_stale_locks(self) -> None:
        """Delete lock files a killed git left; call only while holding the driver lock."""
        for lock in self.path.rglob("*.lock"):
            lock.unlink(missing_ok=True)

    def commit(self, files: Mapping[str, str], message: str, parent: str | None = None) -> Commit:
        """Commit exactly `files` (flat names to text) on top of `parent`; moves no branch."""
        entries = "".join(f"100644 blob {self._blob(files[n])}\t{n}\n" for n in sorted(files))
        tree = self._git("mktree", stdin=entries)
        parents = ["-p", parent] if parent else []
        return Commit(self._git("commit-tree", tree, *parents, "-F", "-", stdin=message), tree)

    def files(self, commit: str) -> dict[str, str]:
        """All files of a commit: name to text."""
        blobs = self._repo.commit(commit).tree.blobs
        return {str(b.name): b.data_stream.read().decode("utf-8") for b in blobs}

    def parent(self, commit: str) -> str | None:
        """The commit before `commit`, or None for a base commit."""
        parents = self._repo.commit(commit).parents
        return parents[0].hexsha if parents else None

    def tree(self, commit: str) -> str:
        """Tree name of a commit."""
        return self._repo.commit(commit).tree.hexsha

    def set_branch(self, branch: str, commit: str) -> None:
        """Point `refs/heads/BRANCH` at a commit."""
        self._git("update-ref", f"refs/heads/{branch}", commit)

    def keep_reachable(self, run_id: str, index: int, commit: str) -> None:
        """Hold an experiment's commit under `refs/experiments/`, kept or discarded."""
        self._git("update-ref", f"refs/experiments/{run_id}/{index}", commit)

    def diff(self, old: str, new: str) -> str:
        """Unified diff between two commits; empty when they are equal."""
        out = self._repo.git.diff(old, new, "--no-color", "--no-ext-diff", "--unified=3")
        return f"{out}\n" if out else ""

    def checkout(self, worktree: Path, branch: str) -> None:
        """Make `worktree` show the tip of `branch`; creates the worktree if missing."""
        import git

        try:
            self._git("-C", str(worktree), "reset", "--hard", "--quiet")
        except git.GitCommandError:  # new, torn by a kill, or moved: make it afresh
            shutil.rmtree(worktree, ignore_errors=True)
            self._git("worktree", "prune")
            self._git("worktree", "add", "-f", "-f", "--quiet", str(worktree), branch)

    def _blob(self, text: str) -> str:
        return self._git("hash-object", "-w", "--stdin", stdin=text)

    def _git(self, *words: str, stdin: str = "") -> str:
        with tempfile.TemporaryFile() as source:  # git reads from a real file descriptor only
            source.write(stdin.encode("utf-8"))
            source.seek(0)
            return str(self._repo.git.execute(["git", *words], istream=source, env=self._env))
