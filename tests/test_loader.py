"""The dataloader: shifted rows, exact resume, nothing read early, a thread that hides its work."""

from __future__ import annotations

import importlib.util
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
TASK = {
    "name": "test",
    "corpus": "numbers",
    "vocab_size": 1000,
    "max_seq_len": 16,
    "eval_tokens": 320,
    "clock": "steps",
    "time_budget": 4,
}
BOS = 999


class OneToken:
    def get_bos_token_id(self):
        return BOS


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """prepare.py beside a task, with a small cache of made-up tokens."""
    folder = tmp_path_factory.mktemp("code")
    shutil.copy(ROOT / "prepare.py", folder)
    (folder / "task.json").write_text(json.dumps(TASK))
    spec = importlib.util.spec_from_file_location("prepare_of_loader_test", folder / "prepare.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    rng, files = np.random.default_rng(0), {}
    texts = [[BOS, *rng.integers(0, 990, n)] for n in rng.integers(1, 90, 300)]
    stream = np.concatenate(texts).astype("<u2")
    arrays = {"train.bin": stream, "search.bin": loaded.pack_rows(stream[:3000], BOS, 17)}
    cache = folder / "cache"
    cache.mkdir()
    for name, array in arrays.items():
        array.tofile(cache / name)
        files[name] = {"bytes": array.nbytes}
    (cache / "manifest.json").write_text(json.dumps({"files": files}))
    loaded.cache_dir = lambda task: str(cache)
    return loaded


def batches(loader, count):
    return torch.cat(
        [torch.cat((x, y[:, -1:]), 1) for x, y, _ in (next(loader) for _ in range(count))]
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_targets_are_inputs_shifted_by_one(module, split):
    loader = module.make_dataloader(OneToken(), 3, 16, split)
    for _ in range(20):
        x, y, epoch = next(loader)
        assert x.shape == y.shape == (3, 16)
        assert x.dtype == y.dtype == torch.long
        assert (x[:, 1:] == y[:, :-1]).all()
        assert (x[:, 0] == BOS).all()
        assert epoch >= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 12), st.integers(1, 9), st.sampled_from(["train", "val"]))
def test_a_loader_resumes_exactly_where_another_stopped(module, B, stopped, other_B, split):
    whole = batches(module.make_dataloader(OneToken(), 1, 16, split), B * stopped + 3 * other_B)
    first = module.make_dataloader(OneToken(), B, 16, split)
    for _ in range(stopped):
        next(first)
    assert first.rows == B * stopped
    again = module.make_dataloader(OneToken(), other_B, 16, split, first_row=first.rows)
    assert torch.equal(batches(again, 3), whole[B * stopped :])


def test_two_loaders_give_the_same_data(module):
    one, two = (module.make_dataloader(OneToken(), 4, 16, "train") for _ in range(2))
    assert torch.equal(batches(one, 30), batches(two, 30))


def test_a_shorter_context_is_served_too(module):
    for split in ("train", "val"):
        x, _, _ = next(module.make_dataloader(OneToken(), 2, 5, split))
        assert x.shape == (2, 5)


def test_upstreams_buffer_size_is_taken_and_changes_nothing(module):
    ours = module.make_dataloader(OneToken(), 2, 16, "train")
    theirs = module.make_dataloader(OneToken(), 2, 16, "train", buffer_size=1000)
    assert torch.equal(batches(ours, 5), batches(theirs, 5))


def test_the_val_rows_are_those_that_are_scored(module):
    rows = module.search_rows()
    assert rows.shape == (20, 17)  # eval_tokens // max_seq_len
    loaded = batches(module.make_dataloader(OneToken(), 7, 16, "val"), 6).numpy()
    assert (loaded == rows[np.arange(42) % 20]).all()


def test_reading_ahead_changes_nothing_and_stays_bounded(module):
    made = []

    def numbers():
        for i in range(100):
            made.append(i)
            yield torch.tensor([i]), 1

    ahead = module.read_ahead(numbers(), depth=3)
    assert next(ahead)[0].item() == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 5  # one given out, three ready, one waiting for room
    assert [next(ahead)[0].item() for _ in range(99)] == list(range(1, 100))


def test_a_failure_of_the_thread_is_raised_where_the_batch_is_asked_for(module):
    def broken():
        yield torch.tensor([1]), 1
        raise RuntimeError("The harness closed the connection.")

    ahead = module.read_ahead(broken())
    next(ahead)
    with pytest.raises(RuntimeError, match="harness closed"):
        next(ahead)


def test_a_loader_that_is_dropped_takes_its_thread_with_it(module):
    def endless():
        while True:
            yield torch.zeros(1), 1

    before = threading.active_count()
    ahead = [module.read_ahead(endless()) for _ in range(5)]
    for each in ahead:
        next(each)
    for each in ahead:
        each.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_reading_ahead_hides_the_time_it_takes(module):
    def slow():
        while True:
            time.sleep(0.01)
            yield torch.zeros(1), 1

    ahead, waited = module.read_ahead(slow()), 0.0
    next(ahead)
    for _ in range(10):
        time.sleep(0.03)  # the step
        asked = time.perf_counter()
        next(ahead)
        waited += time.perf_counter() - asked
    assert waited < 0.05
