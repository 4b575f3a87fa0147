"""What to read: a bundled corpus, climbmix, or the user's own files.

Owns: `Source`, the kinds of file that hold text, and where the bundled corpora lie.
Does not own: the command line (`command`), reading (`documents`) or downloading (`climbmix`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

BUNDLED = Path(__file__).resolve().parents[2] / "data"
CLIMBMIX = "climbmix"
CLIMBMIX_URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
URL_VARIABLE = "METARESEARCH_CLIMBMIX_URL"
SUFFIXES = (".txt", ".jsonl", ".parquet")
DEFAULT_SHARDS = 10  # upstream's
DEFAULT_WORKERS = 8
ALL_SHARDS = -1


class Source(NamedTuple):
    """A corpus to prepare."""

    name: str
    """What the task calls it: `climbmix`, a bundled name, or a file's name."""
    files: tuple[Path, ...] = ()
    """Files to read; empty for climbmix, and for a name that no bundled file has."""
    shards: int | None = None
    """Training shards of climbmix; -1 = all; None = what is prepared already, else 10."""
    base_url: str = CLIMBMIX_URL
    """Folder the climbmix shards are downloaded from."""
    workers: int = DEFAULT_WORKERS
    """Downloads at a time."""
    replace: bool = False
    """Whether it may take the place of another corpus in the cache folder."""

    @property
    def is_climbmix(self) -> bool:
        """Whether the text is downloaded in shards."""
        return not self.files and self.name == CLIMBMIX


def is_text_file(word: str) -> bool:
    """Whether a corpus is named by a path: it ends in .txt, .jsonl or .parquet."""
    return word.lower().endswith(SUFFIXES)


def bundled_corpora() -> dict[str, Path]:
    """The corpora that come with the repository, by name."""
    return {path.stem: path for path in sorted(BUNDLED.glob("*.parquet"))}


def corpus_names() -> list[str]:
    """The corpora that have a name; any other is the user's files."""
    return sorted({*bundled_corpora(), CLIMBMIX})
