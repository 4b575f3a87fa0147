"""Downloads: resumed, checked, side by side, and kept; from a real server with real faults."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_server import ShardServer, serving

from inner_loop.corpora import climbmix, fetch
from inner_loop.corpora.meter import Meters
from inner_loop.corpora.source import ALL_SHARDS, CLIMBMIX, Source
from inner_loop.errors import UserError

NAME = "shard_00003.parquet"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE", 0.001)


@pytest.fixture
def server() -> Iterator[ShardServer]:
    with serving() as shards:
        yield shards


class Count:
    """What a meter would be told."""

    def __init__(self) -> None:
        self.bytes = 0
        self.expected: dict[Path, int] = {}

    def received(self, amount: int) -> None:
        self.bytes += amount

    def transfers(self) -> fetch.Transfers:
        return fetch.Transfers(self.received, self.expected.__setitem__)


def get(server: ShardServer, folder: Path, name: str = NAME) -> Count:
    count = Count()
    fetch.fetch(f"{server.url}/{name}", folder / name, count.transfers())
    return count


def whole(server: ShardServer, folder: Path, name: str = NAME) -> None:
    """The file is there, right and noted, and nothing else is."""
    body = server.files[name]
    assert (folder / name).read_bytes() == body
    assert fetch.is_fetched(folder / name)
    assert fetch.fetched_sha256(folder / name) == hashlib.sha256(body).hexdigest()
    assert {p.name for p in folder.iterdir()} == {name, f"{name}.json"}


def test_a_file_arrives_whole_and_is_counted(server: ShardServer, tmp_path: Path) -> None:
    count = get(server, tmp_path)
    whole(server, tmp_path)
    size = len(server.files[NAME])
    assert count.bytes == size
    assert list(count.expected.values()) == [size]


def test_a_cut_connection_is_continued_where_it_was_cut(
    server: ShardServer, tmp_path: Path
) -> None:
    server.cut[NAME].append(200_000)
    count = get(server, tmp_path)
    whole(server, tmp_path)
    first, second = server.of(NAME)
    size = len(server.files[NAME])
    assert (first.start, first.status) == (None, 200)
    assert second.status == 206
    assert second.start is not None
    assert 200_000 - fetch.BLOCK < second.start <= 200_000  # a torn block is all that is lost
    assert sum(second.sent) == size - second.start
    assert count.bytes == size


def test_a_part_left_by_an_earlier_process_is_continued(
    server: ShardServer, tmp_path: Path
) -> None:
    transfers = Count().transfers()
    server.pause[NAME] = threading.Event()
    thread = threading.Thread(target=fetch_until_stopped, args=(server, tmp_path, transfers))
    thread.start()
    part = tmp_path / f"{NAME}.part"
    wait_until(lambda: part.exists() and part.stat().st_size > fetch.BLOCK)
    transfers.stop.set()
    server.pause[NAME].set()
    thread.join()
    left = part.stat().st_size
    assert not fetch.is_fetched(tmp_path / NAME)
    count = get(server, tmp_path)
    assert server.of(NAME)[-1].start == left
    assert count.bytes == len(server.files[NAME])
    whole(server, tmp_path)


def fetch_until_stopped(server: ShardServer, folder: Path, transfers: fetch.Transfers) -> None:
    with pytest.raises(fetch.Stopped):
        fetch.fetch(f"{server.url}/{NAME}", folder / NAME, transfers)


def wait_until(claim: object, seconds: float = 20) -> None:
    assert callable(claim)
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def test_a_part_that_is_complete_is_only_checked(server: ShardServer, tmp_path: Path) -> None:
    get(server, tmp_path)
    body = server.files[NAME]
    (tmp_path / NAME).unlink()
    (tmp_path / f"{NAME}.json").unlink()
    (tmp_path / f"{NAME}.part").write_bytes(body)
    known = fetch.Offer("", len(body), hashlib.sha256(body).hexdigest())
    fetch.write_file(tmp_path / f"{NAME}.part.json", fetch.json.dumps(known._asdict()).encode())
    get(server, tmp_path)
    whole(server, tmp_path)
    assert len(server.of(NAME)) == 1


def test_a_server_without_ranges_sends_it_all_again(server: ShardServer, tmp_path: Path) -> None:
    server.ranges = False
    server.cut[NAME].append(200_000)
    count = get(server, tmp_path)
    whole(server, tmp_path)
    assert [asked.status for asked in server.of(NAME)] == [200, 200]
    assert count.bytes == len(server.files[NAME])


@pytest.mark.parametrize("if_range", [True, False], ids=["If-Range", "no If-Range"])
@pytest.mark.parametrize("published", [True, False], ids=["checksum", "no checksum"])
def test_a_file_that_changed_meanwhile_starts_again(
    server: ShardServer, tmp_path: Path, if_range: bool, published: bool
) -> None:
    server.if_range = if_range
    server.published = server.published if published else None
    leave_a_part(server, tmp_path)
    server.files[NAME] = bytes(reversed(server.files[NAME]))  # of the same size
    get(server, tmp_path)
    whole(server, tmp_path)


def leave_a_part(server: ShardServer, folder: Path) -> None:
    server.cut[NAME] += [150_000] + [0] * fetch.FAILURES
    with pytest.raises(UserError, match="Cannot download"):
        get(server, folder)
    server.cut[NAME].clear()
    assert 0 < (folder / f"{NAME}.part").stat().st_size <= 150_000


def test_a_server_that_never_sends_anything_is_given_up(
    server: ShardServer, tmp_path: Path
) -> None:
    server.cut[NAME] += [0] * 99
    with pytest.raises(UserError, match=r"Cannot download .*continues") as error:
        get(server, tmp_path)
    assert "\n" not in str(error.value)
    assert len(server.of(NAME)) == fetch.FAILURES


def test_a_busy_server_is_asked_again_when_it_says(server: ShardServer, tmp_path: Path) -> None:
    server.statuses[NAME] += [503]
    get(server, tmp_path)
    whole(server, tmp_path)
    busy, sent = server.of(NAME)
    assert (busy.status, sent.status) == (503, 200)
    assert sent.at - busy.at > 0.95


def test_a_busy_server_is_given_up_in_the_end(server: ShardServer, tmp_path: Path) -> None:
    server.retry_after = "soon"  # neither seconds nor a date
    server.statuses[NAME] += [503] * 99
    with pytest.raises(UserError, match="answers 503 again and again; run the same command"):
        get(server, tmp_path)
    assert len(server.of(NAME)) == fetch.FAILURES


def test_nobody_who_stops_has_to_wait_as_long_as_a_server_asks(
    server: ShardServer, tmp_path: Path
) -> None:
    server.retry_after = "60"
    server.statuses[NAME] += [503] * 99
    transfers = Count().transfers()
    thread = threading.Thread(target=fetch_until_stopped, args=(server, tmp_path, transfers))
    thread.start()
    wait_until(lambda: server.of(NAME))
    transfers.stop.set()
    thread.join(2)
    assert not thread.is_alive()


def test_a_wrong_checksum_is_one_sentence_after_a_second_try(
    server: ShardServer, tmp_path: Path
) -> None:
    server.published = lambda _: hashlib.sha256(b"other").hexdigest()
    with pytest.raises(UserError, match=r"checksum.*--base-url"):
        get(server, tmp_path)
    assert [asked.status for asked in server.of(NAME)] == [200, 200]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_one_sentence(server: ShardServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.parquet does not exist \(404\)"):
        get(server, tmp_path, "absent.parquet")


def test_no_network_is_one_sentence_that_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        fetch.fetch("http://127.0.0.1:9/x", tmp_path / "x", Count().transfers())
    sentence = str(error.value)
    assert "http://127.0.0.1:9/x (Connection refused)" in sentence
    assert "--base-url" in sentence
    assert "METARESEARCH_CLIMBMIX_URL" in sentence
    assert "\n" not in sentence


def test_an_address_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot download http://"):
        fetch.fetch("http://", tmp_path / "x", Count().transfers())


# Many shards


def shards_of(server: ShardServer, folder: Path, names: list[str], workers: int) -> dict[str, str]:
    source = Source(CLIMBMIX, base_url=server.url, workers=workers)
    return climbmix.download(names, folder, source, Meters(print))


def test_downloads_overlap(server: ShardServer, tmp_path: Path) -> None:
    names = [f"shard_{i:05}.parquet" for i in range(4)]
    server.together = threading.Barrier(4)  # no body is sent before four are asked for
    hashes = shards_of(server, tmp_path, names, workers=4)
    assert hashes == {n: hashlib.sha256(server.files[n]).hexdigest() for n in names}


def test_a_finished_shard_is_never_fetched_again(server: ShardServer, tmp_path: Path) -> None:
    names = [f"shard_{i:05}.parquet" for i in range(3)]
    shards_of(server, tmp_path, names[:2], workers=2)
    hashes = shards_of(server, tmp_path, names, workers=2)
    assert sorted(asked.name for asked in server.asked) == names
    assert sorted(hashes) == names


LOGIN = b"<html>please log in to the network</html>"


@pytest.mark.parametrize("lengths", [True, False], ids=["length", "no length"])
@pytest.mark.parametrize("body", [LOGIN, b"", b"PAR1"], ids=["login page", "empty", "tiny"])
def test_what_is_no_shard_is_one_sentence_and_never_kept(
    server: ShardServer, tmp_path: Path, body: bytes, lengths: bool
) -> None:
    server.published, server.lengths, server.files[NAME] = None, lengths, body
    with pytest.raises(UserError, match="no whole parquet file, 2 times over; check the network"):
        shards_of(server, tmp_path, [NAME], workers=1)
    assert [asked.start for asked in server.of(NAME)] == [None, None]
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    del server.files[NAME]
    assert list(shards_of(server, tmp_path, [NAME], workers=1)) == [NAME]


def test_a_body_cut_without_a_length_is_fetched_again(server: ShardServer, tmp_path: Path) -> None:
    server.published, server.lengths = None, False
    server.cut[NAME].append(200_000)
    hashes = shards_of(server, tmp_path, [NAME], workers=1)
    assert hashes == {NAME: hashlib.sha256(server.files[NAME]).hexdigest()}
    assert [asked.start for asked in server.of(NAME)] == [None, None]


@pytest.mark.parametrize(
    "note", ['{"bytes": %d}', '{"bytes": %d, "sha256": null}', "[]", "{", "\udcff"]
)
def test_an_incomplete_note_is_made_again(server: ShardServer, tmp_path: Path, note: str) -> None:
    get(server, tmp_path)
    text = note.replace("%d", str(len(server.files[NAME])))
    fetch.note_path(tmp_path / NAME).write_bytes(text.encode(errors="surrogateescape"))
    assert shards_of(server, tmp_path, [NAME], 1)[NAME] == (
        hashlib.sha256(server.files[NAME]).hexdigest()
    )
    assert len(server.of(NAME)) == 1


def test_a_shard_that_changed_at_equal_size_is_hashed_again(
    server: ShardServer, tmp_path: Path
) -> None:
    path, before = tmp_path / NAME, shards_of(server, tmp_path, [NAME], 1)
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))  # a clock may be this coarse
    after = shards_of(server, tmp_path, [NAME], 1)
    assert after == {NAME: hashlib.sha256(changed).hexdigest()} != before


def test_a_note_of_a_part_that_is_none_starts_again(server: ShardServer, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"half")
    note = {"etag": 1, "size": "4", "sha256": None}
    (tmp_path / f"{NAME}.part.json").write_text(json.dumps(note))
    get(server, tmp_path)
    whole(server, tmp_path)


def test_a_shard_put_there_by_hand_is_taken(server: ShardServer, tmp_path: Path) -> None:
    body = server.body(NAME)
    assert body
    (tmp_path / NAME).write_bytes(body)
    hashes = shards_of(server, tmp_path, [NAME], workers=1)
    assert hashes == {NAME: hashlib.sha256(body).hexdigest()}
    assert server.asked == []


def test_one_failure_ends_the_others_and_is_the_sentence(
    server: ShardServer, tmp_path: Path
) -> None:
    server.cut["shard_00000.parquet"] += [100_000] * 99
    with pytest.raises(UserError, match="does not exist"):
        shards_of(server, tmp_path, ["shard_00000.parquet", "absent.parquet"], workers=2)


def test_the_shards_of_each_split_are_different_ones() -> None:
    for shards, salt in ((10, "0"), (10, "season 2"), (6540, "0"), (ALL_SHARDS, "0")):
        names = climbmix.shard_names(shards, salt)
        flat = [name for split in names.values() for name in split]
        assert len(flat) == len(set(flat)) == (6540 if shards == ALL_SHARDS else shards) + 3
        assert names["search"] == ["shard_06542.parquet"]


def test_training_shards_are_upstreams_and_hidden_ones_follow_the_salt_alone() -> None:
    names = climbmix.shard_names(10, "0")
    assert names["train"] == [f"shard_{i:05}.parquet" for i in range(10)]
    for split in ("audit", "locked"):
        assert climbmix.shard_names(ALL_SHARDS, "0")[split] == names[split]
        assert climbmix.shard_names(10, "1")[split] != names[split]
    with pytest.raises(UserError, match="6540 training shards, not 6541"):
        climbmix.shard_names(6541, "0")
