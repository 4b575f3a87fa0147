"""The arguments of `python prepare.py` that say what to read.

Owns: their names, defaults and checks. Does not own: `--task` and `--cache` (prepare.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inner_loop.corpora.source import (
    ALL_SHARDS,
    CLIMBMIX_URL,
    DEFAULT_SHARDS,
    DEFAULT_WORKERS,
    SUFFIXES,
    URL_VARIABLE,
    Source,
    bundled_corpora,
    corpus_names,
    is_text_file,
)
from inner_loop.errors import UserError, unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --corpus, --shards, --base-url, --workers and --replace."""
    parser.add_argument(
        "--corpus",
        nargs="+",
        metavar="NAME|FILE",
        help=f"a corpus by name ({', '.join(corpus_names())}) or your own {'/'.join(SUFFIXES)} "
        "files (default: the task's)",
    )
    parser.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help=f"climbmix: training shards, {ALL_SHARDS} = all "
        f"(default: those prepared already, else {DEFAULT_SHARDS})",
    )
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help=f"climbmix: folder of the shards (default: {URL_VARIABLE}, else Hugging Face)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=DEFAULT_WORKERS,
        metavar="N",
        help="climbmix: downloads at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="put this corpus in the place of another one that the cache folder holds",
    )


def source_from(
    args: argparse.Namespace, task: Mapping[str, Any], env: Mapping[str, str] = os.environ
) -> Source:
    """The source that the arguments, or else the task, name.

    Raises:
        UserError: an unknown name, a missing file, or a number or URL that makes no sense.
    """
    base_url = (args.base_url or env.get(URL_VARIABLE) or CLIMBMIX_URL).rstrip("/")
    _check_numbers(args)
    if not base_url.startswith(("http://", "https://")):
        raise UserError(f"'{base_url}' is no http:// or https:// address; correct the base URL.")
    source = source_named(args.corpus or (), str(task["corpus"]))
    return source._replace(
        shards=args.shards, base_url=base_url, workers=args.workers, replace=args.replace
    )


def source_named(words: Sequence[str], otherwise: str) -> Source:
    """The source that a user names, or else the task.

    A file that only the task names need not be there: what was prepared from it is enough.

    Args:
        words: one name, or files; may be empty.
        otherwise: the task's corpus.

    Raises:
        UserError: an unknown name, or a file that is missing or of another kind.
    """
    if not words:
        path, bundled = Path(otherwise), bundled_corpora()
        files = (path,) if is_text_file(otherwise) and path.is_file() else ()
        return Source(path.name, (bundled[otherwise],) if otherwise in bundled else files)
    if len(words) == 1 and not is_text_file(words[0]) and not Path(words[0]).exists():
        if words[0] not in corpus_names():
            raise unknown("corpus", words[0], corpus_names())
        return source_named((), words[0])
    paths = tuple(Path(word) for word in words)
    for path in paths:
        _check_file(path)
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return Source(f"{paths[0].name}{more}", paths)


@contextlib.contextmanager
def sentences(cache: Path) -> Iterator[None]:
    """What goes wrong for a reason becomes one line on stderr and an exit code.

    Args:
        cache: the folder that is filled, to be named.

    Raises:
        SystemExit: 2 for bad input or a full disk, 130 when interrupted.
    """
    try:
        yield
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        why, help_ = error.strerror or error, "check its permissions and the free space"
        print(f"Cannot prepare the data in {cache} ({why}); {help_}.", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("Interrupted; the same command continues the downloads.", file=sys.stderr)
        raise SystemExit(130) from None


def _check_numbers(args: argparse.Namespace) -> None:
    if args.shards is not None and args.shards < 1 and args.shards != ALL_SHARDS:
        raise UserError(f"--shards is {args.shards}; give 1 or more, or {ALL_SHARDS} for all.")
    if args.workers < 1:
        raise UserError(f"--workers is {args.workers}; give 1 or more.")


def _check_file(path: Path) -> None:
    if not is_text_file(path.name):
        raise UserError(f"{path}: a corpus file must end in {', '.join(SUFFIXES)}; rename it.")
    if not path.is_file():
        raise UserError(f"{path}: no such corpus file; check the path.")
