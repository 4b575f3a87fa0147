"""The fixed side at run time: tokenizer, byte table, task, clock, metric, wire to the harness."""

import contextlib
import importlib.util
import itertools
import json
import math
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inner_loop.corpora import build
from inner_loop.corpora.source import Source
from inner_loop.corpora.tokens import SPLIT_PATTERN
from inner_loop.literals import with_start

ROOT = Path(__file__).resolve().parent.parent
TASK = {
    "name": "test",
    "corpus": "letters",
    "vocab_size": 300,
    "max_seq_len": 16,
    "eval_tokens": 1024,
    "clock": "steps",
    "time_budget": 3,
}
SMALL = {"DEPTH": 2, "WIDTH": 32, "HEAD_DIM": 8, "TOTAL_BATCH_SIZE": 64}
WORDS = [
    "the",
    "a",
    "king",
    "said",
    "12",
    "1605",
    "naïve",
    "café",
    "ßtraße",
    "Ωmega",
    "你好",
    "世界",
    "天下",
    "🦉",
    "👩\u200d🚀",
    ",",
]
WORDS += ["e\u0301", "\n"]


def write_corpus(path, documents=200, seed=0, prefix=""):
    rng = random.Random(seed)
    texts = [prefix + f"{i}: " + " ".join(rng.choices(WORDS, k=60)) for i in range(documents)]
    pq.write_table(pa.table({"text": texts}), path)
    return texts


def load_prepare(folder, task=TASK):
    """prepare.py as a module of its own, copied beside its own task.json."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "prepare.py", folder)
    (folder / "train.py").write_text(with_start((ROOT / "train.py").read_text(), SMALL))
    (folder / "task.json").write_text(json.dumps(task))
    spec = importlib.util.spec_from_file_location("prepare_under_test", folder / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def environment(**variables):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A prepared cache: .module is prepare, .cache its folder, .texts the corpus."""
    folder = tmp_path_factory.mktemp("home")
    home = type(
        "Home",
        (),
        {"folder": folder, "cache": folder / "cache", "corpus": folder / "corpus.parquet"},
    )
    home.texts = write_corpus(home.corpus)
    home.module = load_prepare(folder / "code")
    with environment(METARESEARCH_CACHE=str(home.cache)):
        tools = build.Tools(home.module.Tokenizer, home.module.pack_rows)
        build.prepare(TASK, home.cache, Source("letters", (home.corpus,)), tools, print)
        home.tokenizer = home.module.Tokenizer.from_directory()
        yield home


# Tokenizer and byte table


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_token_bytes_add_up_to_the_bytes_of_any_text(home, text):
    ids = home.tokenizer.encode(text)
    assert home.module.get_token_bytes()[ids].sum() == len(text.encode())
    assert home.tokenizer.decode(ids) == text


def test_counting_decoded_text_would_be_wrong_where_our_table_is_right(home):
    text = "你好🦉👩‍🚀 天下é"
    ids = home.tokenizer.encode(text)
    decoded = sum(len(home.tokenizer.decode([i]).encode()) for i in ids)
    assert decoded != len(text.encode())
    assert home.module.get_token_bytes()[ids].sum() == len(text.encode())


def test_special_tokens_have_no_bytes_and_never_come_from_text(home):
    first = home.tokenizer.get_bos_token_id()
    assert home.module.get_token_bytes()[first:].tolist() == [0] * 4
    assert first + 4 == home.tokenizer.get_vocab_size() == 300
    assert max(home.tokenizer.encode("<|reserved_0|>")) < first


def test_encode_takes_a_text_or_a_list_and_prepends(home):
    one, bos = home.tokenizer.encode("the king"), home.tokenizer.get_bos_token_id()
    assert home.tokenizer.encode(["the king", ""], prepend=bos) == [[bos, *one], [bos]]
    assert home.tokenizer.encode("the king", prepend="<|reserved_0|>") == [bos, *one]


def test_the_tokenizer_is_stored_as_data(home):
    data = json.loads((home.cache / "tokenizer.json").read_text())
    assert data["pattern"] == SPLIT_PATTERN
    assert len(data["special_tokens"]) == 4
    assert not [p for p in home.cache.iterdir() if p.suffix in (".pkl", ".pickle", ".pt")]


# Command line


def run_prepare(folder, *args, **variables):
    return subprocess.Popen(
        [sys.executable, "prepare.py", *map(str, args)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **variables},
    )


def test_a_bad_task_file_ends_the_process_with_one_sentence_and_no_traceback(home, tmp_path):
    (tmp_path / "task.json").write_text('{"name": ')
    process = run_prepare(home.folder / "code", "--task", tmp_path / "task.json")
    _, error = process.communicate()
    assert process.returncode == 1
    assert error.count("\n") == 1
    assert "cannot read the task" in error


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vocab_size": None}, "vocab_size must be a whole number"),
        ({"vocab_size": 70000}, "vocab_size must be a whole number from 260 to 65536"),
        ({"max_seq_len": 0}, "max_seq_len must be"),
        ({"eval_tokens": 15}, "eval_tokens must be"),
        ({"clock": "sun"}, "clock must be one of wall, cpu, steps"),
        ({"time_budget": 0}, "time_budget must be a number above 0"),
        ({"time_budget": True}, "time_budget must be a number above 0"),
        ({"corpus": "../etc"}, "corpus must be a word"),
        ({"corpus": "../etc.txt"}, "corpus must be a word"),
        ({"corpus": 7}, "corpus must be a word"),
    ],
)
def test_a_bad_task_value_is_one_sentence(home, change, sentence):
    with pytest.raises(SystemExit, match=sentence):
        home.module.check_task({**TASK, **change}, "task.json")


@pytest.mark.parametrize("corpus", ["shakespeare", "my data.txt", "wiki.en.jsonl", "A.PARQUET"])
def test_a_corpus_is_a_word_or_a_file_of_any_name(home, corpus):
    home.module.check_task({**TASK, "corpus": corpus}, "task.json")


def test_a_missing_task_key_is_named(home):
    with pytest.raises(SystemExit, match="lacks corpus, clock"):
        home.module.check_task(
            {k: v for k, v in TASK.items() if k not in ("corpus", "clock")}, "task.json"
        )


# Clock


def test_the_clock_starts_with_the_first_train_batch(tmp_path, home):
    module = load_prepare(tmp_path / "code", {**TASK, "time_budget": 4})
    assert module.progress(2) == 0.0
    loader = module.make_dataloader(home.tokenizer, 2, 16, "train")
    assert module.progress(2) == 0.0
    next(loader)
    assert [module.progress(step) for step in (0, 1, 4)] == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_seconds_are_fractions_of_the_budget(tmp_path, home, clock):
    module = load_prepare(tmp_path / "code", {**TASK, "clock": clock, "time_budget": 0.02})
    next(module.make_dataloader(home.tokenizer, 2, 16, "train"))
    first = module.progress(0)
    while module.progress(0) < 1:  # ends only if the clock runs
        pass
    assert 0 <= first < 1


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_a_script_that_keeps_its_own_slow_clock_still_ends_in_time(tmp_path, home, clock):
    module = load_prepare(tmp_path / "code", {**TASK, "clock": clock, "time_budget": 0.05})
    budget = module.TIME_BUDGET
    assert (float(budget), f"{budget - 0.01:.2f}") == (0.05, "0.04")
    assert not budget <= 0
    assert budget > 0
    assert (0 / budget, 0.025 / budget, 0.05 / budget) == (0.0, 0.5, 1.0)
    assert budget <= 0.06
    next(module.make_dataloader(home.tokenizer, 2, 16, "train"))
    shares = [0 / budget]
    while not budget <= 0.0:  # its own clock stands still, as in upstream's first steps
        shares.append(0.0 / budget)
    assert 0.0 / budget >= 1
    assert shares == sorted(shares)


# Metric


class Bigram(torch.nn.Module):
    """Logits that depend on the token, big enough to be far from uniform."""

    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x):
        assert not torch.is_grad_enabled()
        return self.dropout(self.table(x))


def plain_bpb(model, rows, token_bytes):
    nats, nbytes = 0.0, 0
    table = model.table.weight.detach().double().log_softmax(-1)
    for row in rows:
        for x, y in itertools.pairwise(row):
            if token_bytes[y] > 0:
                nats, nbytes = nats - table[x, y].item(), nbytes + int(token_bytes[y])
    return nats / math.log(2) / nbytes


@pytest.mark.parametrize("batch_size", [0, 1, 7, 10**6])
def test_evaluate_bpb_equals_a_plain_reference_whatever_the_batch(home, monkeypatch, batch_size):
    monkeypatch.setattr(home.module, "EVAL_ROWS", 30)
    torch.manual_seed(0)
    model = Bigram(home.tokenizer.get_vocab_size()).train()
    rows = np.fromfile(home.cache / "search.bin", dtype="<u2").reshape(-1, 17)
    assert len(rows) > TASK["eval_tokens"] // 16 > home.module.EVAL_ROWS  # parts, and not all
    rows = rows[: TASK["eval_tokens"] // 16].tolist()
    expected = plain_bpb(model, rows, home.module.get_token_bytes().tolist())
    assert home.module.evaluate_bpb(model, home.tokenizer, batch_size) == pytest.approx(
        expected, abs=1e-5
    )
    assert model.training


# Wire


class Wire:
    """The harness's end of the socket, written from the format's description."""

    def __init__(self, sock):
        self.sock = sock

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def read(self, size):
        data = b""
        while len(data) < size:
            data += self.sock.recv(size - len(data)) or pytest.fail("the box closed the connection")
        return data

    def receive(self):
        header = json.loads(self.read(struct.unpack(">I", self.read(4))[0]))
        return header, self.read(header.get("nbytes", 0))

    def send(self, header, payload=b""):
        data = json.dumps(header).encode()
        self.sock.sendall(struct.pack(">I", len(data)) + data + payload)


def open_box(folder, cache, seed, script="train.py"):
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=folder,
        pass_fds=[theirs.fileno()],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            "PATH": os.environ["PATH"],
            "METARESEARCH_FD": str(theirs.fileno()),
            "METARESEARCH_SEED": str(seed),
            "METARESEARCH_CACHE": str(cache),
        },
    )
    theirs.close()
    return process, Wire(ours)


def serve(wire, train_bin, rows, val_bpb):
    """Releases the data, has rows scored, answers with a number; returns request and logits."""
    with Path(train_bin).open("rb") as f:
        assert wire.receive()[0] == {"type": "data"}
        wire.send({"type": "data"})
        socket.send_fds(wire.sock, [b"D"], [f.fileno()])
    request, _ = wire.receive()
    payload = rows.astype("<u2").tobytes()
    wire.send(
        {"type": "rows", "shape": rows.shape, "dtype": "uint16", "nbytes": len(payload)}, payload
    )
    header, payload = wire.receive()
    assert header["type"] == "logits"
    assert header["dtype"] == "float32"
    wire.send({"type": "score", "val_bpb": val_bpb})
    return request, np.frombuffer(payload, dtype="<f4").reshape(header["shape"])


@pytest.fixture(scope="module")
def boxed(home):
    """The real train.py, three times under a harness, side by side: seeds 1, 1 and 2."""
    box_cache = home.folder / "box_cache"  # what a box may see: no text of any split
    box_cache.mkdir()
    for name in ("tokenizer.json", "token_bytes.npy"):
        shutil.copy(home.cache / name, box_cache)
    rows = np.fromfile(home.cache / "audit.bin", dtype="<u2")[:64].reshape(4, 16)
    boxes = [open_box(home.folder / "code", box_cache, seed) for seed in (1, 1, 2)]
    results = []
    for process, wire in boxes:
        with wire:
            answer = serve(wire, home.cache / "train.bin", rows, 1.25)
            results.append((process.communicate()[0], process.returncode, *answer))
    return results


def test_a_box_trains_on_released_data_and_prints_the_scorers_number(boxed):
    output, code, request, logits = boxed[0]
    assert code == 0, output
    assert "val_bpb:          1.250000\n" in output
    assert "num_steps:        3\n" in output
    assert request == {"type": "evaluate", "vocab_size": 300, "sequence_len": 16}
    assert logits.shape == (4, 16, 300)
    assert np.isfinite(logits).all()


def test_the_harness_chooses_the_seed(boxed):
    first, again, other = (logits for *_, logits in boxed)
    assert (first == again).all()
    assert (first != other).any()


def test_a_forced_seed_wins_over_every_way_to_set_one(home, tmp_path):
    folder = tmp_path / "code"
    load_prepare(folder)
    (folder / "seeds.py").write_text(
        "import torch, prepare\n"
        "for set_seed in (torch.manual_seed, torch.random.manual_seed):\n"
        "    set_seed(42)\n"
        "    torch.cuda.manual_seed(42), torch.cuda.manual_seed_all(42)\n"
        "    print(torch.initial_seed())\n"
    )
    process, wire = open_box(folder, home.cache, 7, "seeds.py")
    with wire:
        assert process.communicate()[0].split() == ["7", "7"]


def test_the_validation_text_stays_with_the_scorer(home, tmp_path):
    folder = tmp_path / "code"
    load_prepare(folder)
    (folder / "peek.py").write_text("import prepare\nprepare.make_dataloader(None, 1, 16, 'val')\n")
    process, wire = open_box(folder, home.cache, 1, "peek.py")
    with wire:
        output, _ = process.communicate()
    assert process.returncode == 1
    assert "RuntimeError: The validation text stays with the scorer" in output


def test_a_harness_that_hangs_up_is_one_clear_error(home, tmp_path):
    folder = tmp_path / "code"
    load_prepare(folder)
    (folder / "ask.py").write_text(
        "import prepare\n"
        "tokenizer = prepare.Tokenizer.from_directory()\n"
        "next(prepare.make_dataloader(tokenizer, 1, 16, 'train'))\n"
    )
    process, wire = open_box(folder, home.cache, 1, "ask.py")
    with wire:
        pass
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "closed the connection" in output or "Broken pipe" in output
