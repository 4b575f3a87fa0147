"""
The fixed side of an experiment: data, tokenizer, dataloader, clock, metric. A researcher never edits it.
It owns what is trained on, what is scored, and how much of the budget is used. It does not own the model,
the optimizer or the schedule (train.py), nor any number that counts: under the harness the scorer computes
val_bpb outside this process, from logits.

Usage:
    python prepare.py                          # prepare the corpus named in task.json, once
    python prepare.py --corpus FILE.parquet    # prepare another corpus (a `text` column)
    python prepare.py --task FILE --cache DIR  # another task, another place

A `task.json` beside this file sets the constants below.
"""

import argparse
import base64
import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import socket
import struct
import time

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))

# ---------------------------------------------------------------------------
# Task
# ---------------------------------------------------------------------------

UPSTREAM_TASK = {
    "name": "gpu",
    "corpus": "climbmix",
    "vocab_size": 8192,
    "max_seq_len": 2048,
    "eval_tokens": 40 * 524288,
    "clock": "wall",
    "time_budget": 300,
}
CLOCKS = ("wall", "cpu", "steps")
SPECIAL_TOKENS = ["<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>"]
BOS_TOKEN = SPECIAL_TOKENS[0]


def check_task(task, path):
    def need(claim, sentence):
        if not claim:
            raise SystemExit(f"{path}: {sentence}")

    def count(key, low, high):
        whole = isinstance(task[key], int) and not isinstance(task[key], bool)
        need(whole and low <= task[key] <= high, f"{key} must be a whole number from {low} to {high}.")

    need(isinstance(task, dict), "the task must be a JSON object.")
    missing = [key for key in UPSTREAM_TASK if key not in task]
    need(not missing, f"the task lacks {', '.join(missing)}.")
    for key in ("name", "corpus"):
        plain = isinstance(task[key], str) and task[key].replace("-", "").replace("_", "").isalnum()
        need(plain, f"{key} must be a word of letters, digits, - and _.")
    count("vocab_size", 256 + len(SPECIAL_TOKENS), 65536)
    count("max_seq_len", 1, 1 << 20)
    count("eval_tokens", task["max_seq_len"], 1 << 40)
    need(task["clock"] in CLOCKS, f"clock must be one of {', '.join(CLOCKS)}.")
    budget = task["time_budget"]
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    need(number and 0 < budget < math.inf, "time_budget must be a number above 0.")


def load_task(path):
    try:
        with open(path, encoding="utf-8") as f:
            task = json.load(f)
    except (OSError, ValueError) as e:
        raise SystemExit(f"{path}: cannot read the task: {e}.") from None
    check_task(task, path)
    return task


TASK_FILE = os.path.join(HERE, "task.json")
TASK = load_task(TASK_FILE) if os.path.exists(TASK_FILE) else UPSTREAM_TASK

# ---------------------------------------------------------------------------
# Constants (fixed)
# ---------------------------------------------------------------------------

MAX_SEQ_LEN = TASK["max_seq_len"]  # context length
TIME_BUDGET = TASK["time_budget"]  # training budget: seconds of CLOCK, or steps
EVAL_TOKENS = TASK["eval_tokens"]  # number of tokens scored for val_bpb
VOCAB_SIZE = TASK["vocab_size"]    # BPE vocabulary, special tokens included
CLOCK = TASK["clock"]              # "wall", "cpu" or "steps"

SPLITS = {"train": 0.85, "search": 0.05, "audit": 0.05, "locked": 0.05}  # shares of the documents
SPLIT_RULE = 1                     # raise it when documents would land elsewhere
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# GPT-4's split pattern with numbers cut at two digits: a small vocabulary has no room for three
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)

if DEVICE == "cpu" and CLOCK != "wall":
    torch.set_num_threads(1)

# ---------------------------------------------------------------------------
# Cache: where prepared data lives, and whether it is whole
# ---------------------------------------------------------------------------


def file_sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def find_corpus(task, corpus=None):
    """The parquet file to read: the one given, or the bundled one of that name; None when there is none."""
    if corpus:
        return corpus
    bundled = os.path.join(HERE, "data", f"{task['corpus']}.parquet")
    return bundled if os.path.exists(bundled) else None


def cache_key(task):
    """Names the data: only the fields that change it, so tasks that differ elsewhere share a cache."""
    bundled = find_corpus(task)
    fields = {
        "corpus": task["corpus"],
        "corpus_sha256": file_sha256(bundled) if bundled else None,
        "vocab_size": task["vocab_size"],
        "split_rule": SPLIT_RULE,
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def cache_dir(task):
    if os.environ.get("METARESEARCH_CACHE"):
        return os.environ["METARESEARCH_CACHE"]
    home = os.environ.get("METARESEARCH_HOME") or "results"
    return os.path.join(home, "cache", f"{task['name']}-{cache_key(task)}")


def read_manifest(cache):
    """The manifest, or None when the cache is absent, torn, or a file of it has another size."""
    try:
        with open(os.path.join(cache, "manifest.json"), encoding="utf-8") as f:
            manifest = json.load(f)
        for name, entry in manifest["files"].items():
            if os.path.getsize(os.path.join(cache, name)) != entry["bytes"]:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest


def write_file(path, data):
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def cache_lock(cache):
    """One builder at a time; a killed builder's lock falls with it."""
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, ".lock"), "a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------------------
# Documents
# ---------------------------------------------------------------------------


def read_documents(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(path)
        kind = parquet.schema_arrow.field("text").type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise SystemExit(f"{path}: the column `text` must hold strings, not {kind}.")
        batches = parquet.iter_batches(columns=["text"])
        texts = [text for batch in batches for text in batch.column(0).to_pylist() if text]
    except KeyError:
        raise SystemExit(f"{path}: no column `text`; the corpus needs one document a row in it.") from None
    except (OSError, ValueError, pa.ArrowException) as e:
        reason = str(e).split("\n")[0]
        raise SystemExit(f"{path}: cannot read the corpus as parquet: {reason}") from None
    if not texts:
        raise SystemExit(f"{path}: the corpus has no documents.")
    return texts


def split_of(digest):
    share, edge = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for name, size in SPLITS.items():
        edge += size
        if share < edge:
            return name
    return name


def split_documents(texts):
    """Split by content hash: stable when documents come or go, and equal texts stay together."""
    splits = {name: [] for name in SPLITS}
    for text in texts:
        digest = hashlib.sha256(text.encode()).digest()
        splits[split_of(digest)].append((digest, text))
    seen = {}
    for name, documents in splits.items():
        documents.sort()  # by hash: shuffled once, the same for everyone
        for digest, _ in documents:
            assert seen.setdefault(digest, name) == name, "a document is in two splits"
    return {name: [text for _, text in documents] for name, documents in splits.items()}


# ---------------------------------------------------------------------------
# Tokenizer
# ---------------------------------------------------------------------------


def train_tokenizer(texts, vocab_size):
    """Trains BPE and returns the tokenizer as plain data: tokens in order of rank, base64."""
    import rustbpe

    bpe = rustbpe.Tokenizer()
    bpe.train_from_iterator(iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN)
    ranks = sorted(bpe.get_mergeable_ranks(), key=lambda pair: pair[1])
    assert [rank for _, rank in ranks] == list(range(len(ranks)))
    tokens = [base64.b64encode(bytes(token)).decode() for token, _ in ranks]
    return {"format": 1, "pattern": SPLIT_PATTERN, "special_tokens": SPECIAL_TOKENS, "tokens": tokens}


class Tokenizer:
    """Byte-level BPE. Special tokens come after the last rank; encode() never makes one from text."""

    def __init__(self, data):
        self.pattern = data["pattern"]
        self.tokens = [base64.b64decode(token) for token in data["tokens"]]
        self.specials = {name: len(self.tokens) + i for i, name in enumerate(data["special_tokens"])}
        self._encoding = None

    @classmethod
    def from_directory(cls, tokenizer_dir=None):
        tokenizer_dir = tokenizer_dir or cache_dir(TASK)
        try:
            with open(os.path.join(tokenizer_dir, "tokenizer.json"), encoding="utf-8") as f:
                return cls(json.load(f))
        except (OSError, ValueError, KeyError, TypeError):
            raise SystemExit(f"No whole tokenizer in {tokenizer_dir}. Run prepare.py first.") from None

    @property
    def enc(self):
        if self._encoding is None:
            import tiktoken

            ranks = {token: rank for rank, token in enumerate(self.tokens)}
            self._encoding = tiktoken.Encoding(
                "prepare", pat_str=self.pattern, mergeable_ranks=ranks, special_tokens=self.specials
            )
        return self._encoding

    def get_vocab_size(self):
        return len(self.tokens) + len(self.specials)

    def get_bos_token_id(self):
        return self.specials[BOS_TOKEN]

    def encode(self, text, prepend=None):
        if isinstance(text, list):
            rows = self.enc.encode_ordinary_batch(text, num_threads=os.cpu_count() or 1)
        elif isinstance(text, str):
            rows = [self.enc.encode_ordinary(text)]
        else:
            raise ValueError(f"Cannot encode a {type(text).__name__}; give a string or a list of strings.")
        if prepend is not None:
            first = prepend if isinstance(prepend, int) else self.specials[prepend]
            rows = [[first, *row] for row in rows]
        return rows if isinstance(text, list) else rows[0]

    def decode(self, ids):
        return self.enc.decode(ids)

    def token_bytes(self):
        """Exact bytes per token, from the raw tokens: decoded alone, part of a character becomes U+FFFD."""
        sizes = [len(token) for token in self.tokens] + [0] * len(self.specials)
        return np.array(sizes, dtype=np.int32)


def get_token_bytes(device="cpu"):
    path = os.path.join(cache_dir(TASK), "token_bytes.npy")
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False)).to(device)
    except (OSError, ValueError):
        raise SystemExit(f"No byte table at {path}. Run prepare.py first.") from None


# ---------------------------------------------------------------------------
# Preparation
# ---------------------------------------------------------------------------


def write_split(path, texts, tokenizer):
    bos, tokens = tokenizer.get_bos_token_id(), 0
    with open(path, "wb") as f:
        for i in range(0, len(texts), 1024):
            for row in tokenizer.encode(texts[i:i + 1024], prepend=bos):
                f.write(np.array(row, dtype="<u2").tobytes())
                tokens += len(row)
        f.flush()
        os.fsync(f.fileno())
    return {"documents": len(texts), "tokens": tokens, "bytes": sum(len(t.encode()) for t in texts)}


def check_sizes(manifest, task, name):
    for split, counts in manifest["splits"].items():
        if counts["documents"] < 1 or counts["tokens"] <= task["max_seq_len"]:
            raise SystemExit(
                f"{name}: the corpus is too small: the {split} split has {counts['documents']} documents and "
                f"{counts['tokens']} tokens, and needs at least 1 and {task['max_seq_len'] + 1}."
            )


def build(task, corpus, folder):
    """Writes everything but the manifest into an empty folder, and returns the manifest."""
    splits = split_documents(read_documents(corpus))
    if not splits["train"]:
        raise SystemExit(f"{corpus}: the corpus is too small: no document falls into the train split.")
    data = train_tokenizer(splits["train"], task["vocab_size"])
    tokenizer = Tokenizer(data)
    write_file(os.path.join(folder, "tokenizer.json"), json.dumps(data, indent=0).encode())
    with open(os.path.join(folder, "token_bytes.npy"), "wb") as f:
        np.save(f, tokenizer.token_bytes())
        f.flush()
        os.fsync(f.fileno())
    counts = {name: write_split(os.path.join(folder, f"{name}.bin"), texts, tokenizer)
              for name, texts in splits.items()}
    manifest = {
        "data_key": cache_key(task), "corpus": task["corpus"], "corpus_sha256": file_sha256(corpus),
        "split_rule": SPLIT_RULE, "split_shares": SPLITS, "vocab_size": tokenizer.get_vocab_size(),
        "splits": counts,
        "files": {name: {"bytes": os.path.getsize(path), "sha256": file_sha256(path)}
                  for name, path in ((n, os.path.join(folder, n)) for n in sorted(os.listdir(folder)))},
    }
    check_sizes(manifest, task, corpus)
    return manifest


def install(folder, cache, manifest):
    """Moves built files into place. The manifest leaves first and comes last: it claims that all is there."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(cache, "manifest.json"))
    sync_dir(cache)
    for name in manifest["files"]:
        os.replace(os.path.join(folder, name), os.path.join(cache, name))
    sync_dir(cache)
    write_file(os.path.join(folder, "manifest.json"), json.dumps(manifest, indent=1).encode())
    os.replace(os.path.join(folder, "manifest.json"), os.path.join(cache, "manifest.json"))
    sync_dir(cache)


def is_complete(cache, task, corpus):
    manifest = read_manifest(cache)
    if manifest is None or manifest.get("data_key") != cache_key(task):
        return False
    return corpus is None or manifest.get("corpus_sha256") == file_sha256(corpus)


def require_corpus(task, corpus):
    if corpus is None and task["corpus"] == "climbmix":
        raise SystemExit("Downloading climbmix comes in a later version; until then: --corpus FILE.parquet.")
    if corpus is None:
        where = os.path.join(HERE, "data", f"{task['corpus']}.parquet")
        raise SystemExit(f"{where}: no such corpus file; give another with --corpus FILE.parquet.")
    if not os.path.isfile(corpus):
        raise SystemExit(f"{corpus}: no such corpus file; give a parquet file with a `text` column.")


def prepare(task, cache=None, corpus=None):
    """Fills the cache for a task, unless it is filled; returns its folder."""
    cache, corpus = cache or cache_dir(task), find_corpus(task, corpus)
    if corpus and not os.path.isfile(corpus):
        require_corpus(task, corpus)
    if not is_complete(cache, task, corpus):
        require_corpus(task, corpus)
        with cache_lock(cache):
            if not is_complete(cache, task, corpus):  # another process may have been faster
                fill(cache, task, corpus)
                return cache
    check_sizes(read_manifest(cache), task, cache)
    print(f"Data is ready in {cache}")
    return cache


def fill(cache, task, corpus):
    folder = os.path.join(cache, ".build")
    shutil.rmtree(folder, ignore_errors=True)  # what a killed builder left
    os.makedirs(folder)
    try:
        manifest = build(task, corpus, folder)
        install(folder, cache, manifest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tokens = ", ".join(f"{name} {counts['tokens']:,}" for name, counts in manifest["splits"].items())
    print(f"Prepared {task['corpus']} in {cache} (tokens: {tokens})")


# ---------------------------------------------------------------------------
# Harness: the other end of a socket that releases the data and scores the logits
# ---------------------------------------------------------------------------


class Harness:
    """Messages are a 4-byte big-endian length and a JSON header; `nbytes` raw bytes follow if it says so."""

    def __init__(self, fd):
        self.sock = socket.socket(fileno=fd)

    def send(self, header, payload=b""):
        data = json.dumps(header).encode()
        self.sock.sendall(struct.pack(">I", len(data)) + data)
        if payload:
            self.sock.sendall(payload)

    def read(self, size):
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            n = self.sock.recv_into(view[got:])
            if n == 0:
                raise RuntimeError("The harness closed the connection.")
            got += n
        return data

    def receive(self):
        header = json.loads(self.read(struct.unpack(">I", self.read(4))[0]))
        return header, self.read(header.get("nbytes", 0))

    def request_data(self):
        self.send({"type": "data"})
        header, _ = self.receive()
        if header["type"] != "data":
            raise RuntimeError(f"The harness answered {header['type']} to a request for data.")
        _, fds, _, _ = socket.recv_fds(self.sock, 1, 1)
        with os.fdopen(fds[0], "rb") as f:
            return np.memmap(f, dtype="<u2", mode="r")

    def score(self, model, vocab_size):
        self.send({"type": "evaluate", "vocab_size": vocab_size, "sequence_len": MAX_SEQ_LEN})
        while True:
            header, payload = self.receive()
            if header["type"] == "score":
                return header["val_bpb"]
            rows = np.frombuffer(payload, dtype="<u2").reshape(header["shape"])
            logits = compute_logits(model, rows).cpu().contiguous().numpy().astype("<f4", copy=False)
            reply = {"type": "logits", "shape": logits.shape, "dtype": "float32", "nbytes": logits.nbytes}
            self.send(reply, memoryview(logits).cast("B"))


def force_seed(seed):
    """The harness chooses the seed, whatever number train.py asks for."""
    def forced(set_seed):
        return lambda _: set_seed(seed)

    cuda = torch.cuda
    for module, name in ((torch, "manual_seed"), (cuda, "manual_seed"), (cuda, "manual_seed_all")):
        replacement = forced(getattr(module, name))
        setattr(module, name, replacement)
        setattr(module.random, name, replacement)
    torch.manual_seed(seed)


def whole_number(variable):
    value = os.environ.get(variable)
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        raise SystemExit(f"{variable} must be a whole number, not {value!r}.") from None


_harness_fd, _seed = whole_number("METARESEARCH_FD"), whole_number("METARESEARCH_SEED")
HARNESS = Harness(_harness_fd) if _harness_fd is not None else None
if _seed is not None:
    force_seed(_seed)

# ---------------------------------------------------------------------------
# What train.py imports
# ---------------------------------------------------------------------------

_train_tokens = None  # mapped at the first train batch
_released_at = None   # reading of CLOCK at that moment


def _clock():
    return time.process_time() if CLOCK == "cpu" else time.perf_counter()


def progress(step):
    """Fraction of the budget used so far; 1.0 or more means stop."""
    if _released_at is None:
        return 0.0
    return (step if CLOCK == "steps" else _clock() - _released_at) / TIME_BUDGET


def map_split(name):
    cache = cache_dir(TASK)
    if read_manifest(cache) is None:
        raise SystemExit(f"No complete data in {cache}. Run prepare.py first.")
    return np.memmap(os.path.join(cache, f"{name}.bin"), dtype="<u2", mode="r")


def release_train():
    global _train_tokens, _released_at
    if _train_tokens is None:
        _train_tokens = HARNESS.request_data() if HARNESS else map_split("train")
        _released_at = _clock()
    return _train_tokens


def to_device(batch):
    batch = torch.from_numpy(batch)
    return batch.pin_memory().to("cuda", non_blocking=True) if DEVICE == "cuda" else batch


def make_dataloader(tokenizer, B, T, split):
    """Yields (x, y, epoch) for ever: a ring of documents, cut into rows of T + 1 tokens that share ends."""
    assert split in ("train", "val"), f"Unknown split {split!r}. Known: train, val."
    if split == "val" and HARNESS:
        raise RuntimeError("The validation text stays with the scorer: only `train` can be read here.")
    return _batches(B, T, split)


def _batches(B, T, split):
    tokens = release_train() if split == "train" else map_split("search")
    size, start, need = len(tokens), 0, B * T + 1
    while True:
        at = start % size
        if at + need <= size:
            chunk = tokens[at:at + need].astype(np.int64)
        else:
            chunk = np.take(tokens, np.arange(at, at + need), mode="wrap").astype(np.int64)
        batch = to_device(chunk)
        yield batch[:-1].view(B, T), batch[1:].view(B, T), 1 + start // size
        start += B * T


# ---------------------------------------------------------------------------
# Evaluation (fixed, do not modify: this is the metric)
# ---------------------------------------------------------------------------


@torch.no_grad()
def compute_logits(model, rows):
    """model(x) on rows of token ids, as float32: the same code alone and under the harness."""
    device = next(model.parameters()).device
    return model(torch.from_numpy(rows.astype(np.int64)).to(device)).float()


def score_search_split(model, batch_size):
    tokens, token_bytes = map_split("search"), get_token_bytes()
    rows = min(EVAL_TOKENS, len(tokens) - 1) // MAX_SEQ_LEN
    inputs = tokens[:rows * MAX_SEQ_LEN].reshape(rows, MAX_SEQ_LEN)
    targets = tokens[1:rows * MAX_SEQ_LEN + 1].astype(np.int64).reshape(rows, MAX_SEQ_LEN)
    total_nats, total_bytes = 0.0, 0
    for i in range(0, rows, batch_size):
        y = torch.from_numpy(targets[i:i + batch_size])
        logits = compute_logits(model, inputs[i:i + batch_size])
        nats = -logits.log_softmax(-1).gather(-1, y.to(logits.device).unsqueeze(-1)).squeeze(-1)
        nbytes = token_bytes[y]
        total_nats += nats.cpu().double()[nbytes > 0].sum().item()
        total_bytes += nbytes.sum().item()
    return total_nats / (math.log(2) * total_bytes)


def evaluate_bpb(model, tokenizer, batch_size):
    """
    Bits per byte of the search shard: nats of every target that stands for bytes, over ln 2 times the bytes.
    Special tokens stand for none and are left out of both sums. Independent of the vocabulary.
    """
    was_training = model.training
    model.eval()
    try:
        if HARNESS:
            return HARNESS.score(model, tokenizer.get_vocab_size())
        return score_search_split(model, batch_size)
    finally:
        model.train(was_training)


# ---------------------------------------------------------------------------
# Main
# ---------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description="Prepare data and tokenizer for experiments, once.")
    parser.add_argument("--task", help="task file (default: task.json beside prepare.py, else upstream's)")
    parser.add_argument("--cache", help="folder to fill (default: METARESEARCH_CACHE, else results/cache)")
    parser.add_argument("--corpus", help="parquet file with a `text` column (default: the bundled one)")
    args = parser.parse_args()
    task = load_task(args.task) if args.task else TASK
    try:
        prepare(task, args.cache, args.corpus)
    except OSError as e:
        where, why = args.cache or cache_dir(task), e.strerror or e
        raise SystemExit(f"Cannot prepare the data in {where} ({why}); check its permissions and the free space.") from None


if __name__ == "__main__":
    main()
