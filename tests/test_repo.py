from __future__ import annotations

from pathlib import Path

import git
import pytest

from inner_loop.errors import UserError
from inner_loop.repo import Repository

FILES = {"train.py": "A = 1\n", "prepare.py": "B = 2\r\n", "task.json": "{}\n"}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository.git")


def test_equal_edits_are_equal_commits_wherever_they_are_made(tmp_path: Path) -> None:
    shas = set()
    for name in ("a", "b"):
        repository = Repository(tmp_path / name)
        base = repository.commit(FILES, "base\n")
        shas.add(repository.commit(FILES | {"train.py": "A = 2\n"}, "edit\n", base.sha))
    assert len(shas) == 1


def test_files_come_back_byte_for_byte(repository: Repository) -> None:
    files = FILES | {"train.py": "# naïve\r\nx = '\t'  \n\n\n"}
    assert repository.files(repository.commit(files, "m\n").sha) == files


def test_a_discarded_commit_is_still_there_after_garbage_collection(
    repository: Repository,
) -> None:
    base = repository.commit(FILES, "base\n")
    repository.set_branch("autoresearch/x", base.sha)
    edit = repository.commit(FILES | {"train.py": "A = 2\n"}, "edit\n", base.sha)
    repository.keep_reachable("run", 1, edit.sha)
    git.Repo(repository.path).git.gc("--prune=now", "--quiet")
    assert "+A = 2" in repository.diff(base.sha, edit.sha)
    assert repository.parent(edit.sha) == base.sha


def test_the_worktree_follows_the_branch_forward_and_back(
    repository: Repository, tmp_path: Path
) -> None:
    base = repository.commit(FILES, "base\n")
    edit = repository.commit(FILES | {"train.py": "A = 2\n"}, "edit\n", base.sha)
    tree = tmp_path / "worktree"
    for commit, expected in ((base, "A = 1\n"), (edit, "A = 2\n"), (base, "A = 1\n")):
        repository.set_branch("autoresearch/x", commit.sha)
        repository.checkout(tree, "autoresearch/x")
        assert (tree / "train.py").read_text() == expected


def test_locks_left_by_a_killed_git_are_cleared(repository: Repository, tmp_path: Path) -> None:
    base = repository.commit(FILES, "base\n")
    repository.set_branch("b", base.sha)
    repository.checkout(tmp_path / "w", "b")
    for lock in ("refs/heads/b.lock", "worktrees/w/index.lock"):
        (repository.path / lock).touch()
    repository.remove_stale_locks()
    repository.set_branch("b", base.sha)
    repository.checkout(tmp_path / "w", "b")


def test_a_torn_worktree_is_made_afresh(repository: Repository, tmp_path: Path) -> None:
    base = repository.commit(FILES, "base\n")
    repository.set_branch("b", base.sha)
    repository.checkout(tmp_path / "w", "b")
    (repository.path / "worktrees" / "w" / "HEAD").write_text("0" * 40 + "\n")
    (repository.path / "worktrees" / "w" / "locked").write_text("initializing")
    repository.checkout(tmp_path / "w", "b")
    assert (tmp_path / "w" / "train.py").read_text() == "A = 1\n"


def test_a_message_with_odd_characters_is_kept(repository: Repository) -> None:
    message = 'LR "2x" → $(rm) `x` ünï\n\nbody\n'
    commit = repository.commit(FILES, message)
    assert git.Repo(repository.path).commit(commit.sha).message == message


def test_without_git_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install git"):
        Repository(tmp_path / "r")


def test_a_folder_that_is_no_repository_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "HEAD").write_text("nonsense")
    with pytest.raises(UserError, match="not a git repository"):
        Repository(tmp_path / "r")
