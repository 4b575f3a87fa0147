"""The fixed side: documents, tokenizer, byte table, cache, loader, metric, wire to the harness."""

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
    for name in ("prepare.py", "train.py"):
        shutil.copy(ROOT / name, folder)
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
        home.module.prepare(TASK, corpus=str(home.corpus))
        home.tokenizer = home.module.Tokenizer.from_directory()
        yield home


def fingerprints(cache):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in cache.iterdir()}


def contents(cache):
    return {p.name: p.read_bytes() for p in cache.iterdir()}


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
    assert data["pattern"] == home.module.SPLIT_PATTERN
    assert len(data["special_tokens"]) == 4
    assert not [p for p in home.cache.iterdir() if p.suffix in (".pkl", ".pickle", ".pt")]


# Splits


def decode_split(home, name):
    tokens = np.fromfile(home.cache / f"{name}.bin", dtype="<u2").tolist()
    text = home.tokenizer.decode(tokens)
    return text.split("<|reserved_0|>")[1:]


def test_every_document_is_in_exactly_one_split_behind_its_bos(home):
    found = [text for name in home.module.SPLITS for text in decode_split(home, name)]
    assert sorted(found) == sorted(home.texts)


def test_a_split_stays_when_other_documents_come_and_go(home):
    before = home.module.split_documents(home.texts)
    after = home.module.split_documents([*reversed(home.texts[50:]), "a new document"])
    kept = set(home.texts[50:])
    for name in before:
        assert [t for t in before[name] if t in kept] == [t for t in after[name] if t in kept]


def test_equal_texts_share_a_split(home):
    splits = home.module.split_documents(home.texts * 3)
    assert all(len(texts) == 3 * len(set(texts)) for texts in splits.values())


def test_the_split_shares_are_about_85_5_5_5(home):
    splits = home.module.split_documents([str(i) for i in range(20000)])
    shares = {name: len(texts) / 20000 for name, texts in splits.items()}
    assert shares == pytest.approx(
        {"train": 0.85, "search": 0.05, "audit": 0.05, "locked": 0.05}, abs=0.01
    )


def test_bpe_is_trained_on_the_train_split_only(home, tmp_path):
    hidden = [
        t
        for name in ("search", "audit", "locked")
        for t in home.module.split_documents(home.texts)[name]
    ]
    train = [t for t in home.texts if t not in hidden]
    marked, i = [], 0
    while len(marked) < len(hidden):  # other hidden documents, full of a word that train never has
        text, i = f"{i} " + "zyxwvut " * 50, i + 1
        if home.module.split_of(home.module.hashlib.sha256(text.encode()).digest()) != "train":
            marked.append(text)
    pq.write_table(pa.table({"text": train + hidden + marked}), tmp_path / "c.parquet")
    home.module.prepare(TASK, str(tmp_path / "cache"), str(tmp_path / "c.parquet"))
    assert (tmp_path / "cache" / "tokenizer.json").read_bytes() == (
        home.cache / "tokenizer.json"
    ).read_bytes()


# Cache


def test_a_complete_cache_is_left_alone(home, capsys):
    before = fingerprints(home.cache)
    home.module.prepare(TASK, corpus=str(home.corpus))
    home.module.prepare(TASK)  # nor is the corpus needed any more
    assert fingerprints(home.cache) == before
    assert capsys.readouterr().out.count("\n") == 2


def spoil_manifest(cache):
    (cache / "manifest.json").unlink()


def spoil_half_a_manifest(cache):
    (cache / "manifest.json").write_text((cache / "manifest.json").read_text()[:80])


def spoil_a_bin(cache):
    os.truncate(cache / "train.bin", 100)


def spoil_a_missing_file(cache):
    (cache / "token_bytes.npy").unlink()


def spoil_a_killed_build(cache):
    (cache / "manifest.json").unlink()
    (cache / ".build").mkdir()
    (cache / ".build" / "train.bin").write_bytes(b"half")


SPOILS = [
    spoil_manifest,
    spoil_half_a_manifest,
    spoil_a_bin,
    spoil_a_missing_file,
    spoil_a_killed_build,
]


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_half_written_cache_is_rebuilt(home, tmp_path, spoil):
    cache = tmp_path / "cache"
    shutil.copytree(home.cache, cache)
    spoil(cache)
    with (
        environment(METARESEARCH_CACHE=str(cache)),
        pytest.raises(SystemExit, match=r"Run prepare\.py"),
    ):
        home.module.map_split("train")
    home.module.prepare(TASK, str(cache), str(home.corpus))
    assert contents(cache) == contents(home.cache)


def test_a_changed_corpus_is_prepared_again(home, tmp_path):
    write_corpus(tmp_path / "c.parquet", prefix="other ")
    shutil.copytree(home.cache, tmp_path / "cache")
    home.module.prepare(TASK, str(tmp_path / "cache"), str(tmp_path / "c.parquet"))
    assert contents(tmp_path / "cache")["train.bin"] != contents(home.cache)["train.bin"]


def test_files_of_others_in_the_cache_folder_survive(home, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    home.module.prepare(TASK, str(tmp_path), str(home.corpus))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_manifest_tells_sizes_and_hashes(home):
    manifest = home.module.read_manifest(str(home.cache))
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (home.cache / name).stat().st_size
        assert entry["sha256"] == home.module.file_sha256(home.cache / name)
    texts = home.module.split_documents(home.texts)["search"]
    assert manifest["splits"]["search"]["documents"] == len(texts)
    assert manifest["splits"]["search"]["bytes"] == sum(len(t.encode()) for t in texts)
    assert manifest["splits"]["search"]["tokens"] * 2 == (home.cache / "search.bin").stat().st_size


def test_the_cache_key_follows_the_data_and_nothing_else(home):
    key = home.module.cache_key
    assert key(TASK) == key(
        {**TASK, "name": "other", "clock": "wall", "time_budget": 9, "eval_tokens": 64}
    )
    assert key(TASK) != key({**TASK, "vocab_size": 301}) != key({**TASK, "corpus": "other"})


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


def test_two_processes_prepare_at_the_same_time(home, tmp_path):
    both = [
        run_prepare(home.folder / "code", "--cache", tmp_path / "c", "--corpus", home.corpus)
        for _ in range(2)
    ]
    outputs = sorted(process.communicate()[0].split()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert outputs == ["Data", "Prepared"]
    assert contents(tmp_path / "c") == contents(home.cache)


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
    ],
)
def test_a_bad_task_value_is_one_sentence(home, change, sentence):
    with pytest.raises(SystemExit, match=sentence):
        home.module.check_task({**TASK, **change}, "task.json")


def test_a_missing_task_key_is_named(home):
    with pytest.raises(SystemExit, match="lacks corpus, clock"):
        home.module.check_task(
            {k: v for k, v in TASK.items() if k not in ("corpus", "clock")}, "task.json"
        )


def bad_corpora(folder):
    write_corpus(folder / "few.parquet", documents=3)
    pq.write_table(pa.table({"body": ["x"]}), folder / "body.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), folder / "numbers.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "empty.parquet")
    (folder / "noise.parquet").write_bytes(os.urandom(999))
    return folder


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("few.parquet", "too small"),
        ("body.parquet", "no column `text`"),
        ("numbers.parquet", "must hold strings"),
        ("empty.parquet", "no documents"),
        ("noise.parquet", "cannot read the corpus as parquet"),
        ("absent.parquet", "no such corpus file"),
    ],
)
def test_a_bad_corpus_is_one_sentence_and_leaves_no_manifest(home, tmp_path, name, sentence):
    with pytest.raises(SystemExit, match=sentence) as error:
        home.module.prepare(TASK, str(tmp_path / "cache"), str(bad_corpora(tmp_path) / name))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache" / "manifest.json").exists()


def test_climbmix_is_promised_for_later(home, tmp_path):
    with pytest.raises(SystemExit, match=r"comes in a later version.*--corpus"):
        home.module.prepare({**TASK, "corpus": "climbmix"}, str(tmp_path / "cache"))


def test_a_folder_that_cannot_be_written_is_one_sentence(home, tmp_path):
    (tmp_path / "file").write_text("")
    process = run_prepare(
        home.folder / "code", "--cache", tmp_path / "file" / "c", "--corpus", home.corpus
    )
    _, error = process.communicate()
    assert process.returncode == 1
    assert error.startswith("Cannot prepare the data")
    assert error.count("\n") == 1


# Loader


def test_rows_are_shifted_by_one_and_lose_no_target_across_rows_and_epochs(home):
    tokens = np.fromfile(home.cache / "search.bin", dtype="<u2").astype(np.int64)
    size, B, T = len(tokens), 3, 16
    loader, xs, ys, epochs = home.module.make_dataloader(home.tokenizer, B, T, "val"), [], [], []
    for _ in range(2 * size // (B * T) + 2):
        x, y, epoch = next(loader)
        assert x.shape == y.shape == (B, T)
        assert x.dtype == y.dtype == torch.long
        assert (x[:, 1:] == y[:, :-1]).all()
        xs, ys, epochs = (
            [*xs, *x.flatten().tolist()],
            [*ys, *y.flatten().tolist()],
            [*epochs, epoch],
        )
    ring = tokens.tolist() * 3
    assert xs == ring[: len(xs)]
    assert ys == ring[1 : len(ys) + 1]
    assert epochs == [1 + i * B * T // size for i in range(len(epochs))]
    assert epochs[-1] == 3


def test_one_batch_may_be_longer_than_the_corpus(home):
    size = (home.cache / "search.bin").stat().st_size // 2
    x, y, _ = next(home.module.make_dataloader(home.tokenizer, 1, 2 * size, "val"))
    assert (x[0, :size] == x[0, size:]).all()
    assert y[0, size - 1] == x[0, 0]


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


def plain_bpb(model, tokens, token_bytes, rows, T):
    nats, nbytes = 0.0, 0
    table = model.table.weight.detach().double().log_softmax(-1)
    for x, y in itertools.pairwise(tokens[: rows * T + 1]):
        if token_bytes[y] > 0:
            nats, nbytes = nats - table[x, y].item(), nbytes + int(token_bytes[y])
    return nats / math.log(2) / nbytes


@pytest.mark.parametrize("batch_size", [1, 7, 10**6])
def test_evaluate_bpb_equals_a_plain_reference_whatever_the_batch(home, batch_size):
    torch.manual_seed(0)
    model = Bigram(home.tokenizer.get_vocab_size()).train()
    tokens = np.fromfile(home.cache / "search.bin", dtype="<u2").tolist()
    rows = min(TASK["eval_tokens"], len(tokens) - 1) // 16
    expected = plain_bpb(model, tokens, home.module.get_token_bytes().tolist(), rows, 16)
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
        "import prepare\nnext(prepare.make_dataloader(None, 1, 16, 'train'))\n"
    )
    process, wire = open_box(folder, home.cache, 1, "ask.py")
    with wire:
        pass
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "closed the connection" in output or "Broken pipe" in output
