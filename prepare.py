"""
The fixed side of an experiment: data, tokenizer, dataloader, clock, metric. A researcher never edits it.
It owns what is trained on, what is scored, and how much of the budget is used. It does not own the model,
the optimizer or the schedule (train.py), how the corpus gets here (inner_loop/corpora, called by main), nor
any number that counts: under the harness the scorer computes val_bpb outside this process, from logits.

Usage:
    python prepare.py                       # prepare the corpus named in task.json, once
    python prepare.py --corpus FILE...      # prepare your own texts (.txt, .jsonl, .parquet)
    python prepare.py --shards 4            # climbmix with fewer training shards
    python prepare.py --help                # all of it

A `task.json` beside this file sets the constants below.
"""

import argparse
import base64
import contextlib
import ctypes
import hashlib
import json
import math
import os
import queue
import random
import re
import shutil
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))


def keep_freed_memory():
    """glibc returns large blocks to the system at once and pays in page faults to have them again: don't."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
            ctypes.CDLL(None).mallopt(option, 1 << 30)


keep_freed_memory()

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
TEXT_FILES = (".txt", ".jsonl", ".parquet")  # a corpus may be the name of a file of texts
SPECIAL_TOKENS = 4


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
        value = task[key] if isinstance(task[key], str) else ""
        own = key == "corpus" and value.lower().endswith(TEXT_FILES) and os.path.basename(value) == value
        plain = own or value.replace("-", "").replace("_", "").isalnum()
        need(plain, f"{key} must be a word of letters, digits, - and _.")
    count("vocab_size", 256 + SPECIAL_TOKENS, 65536)
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


class Budget(float):
    """
    Seconds, as upstream's scripts use them: they add up their own step times, leave the first ones out,
    and compare and divide the sum by TIME_BUDGET. Asked so, it answers by the clock that counts, so such a
    script anneals and ends in time although its own clock is slow. Python asks a subclass on the right first.
    """

    def used(self, own):
        return max(own / float(self), progress(0))

    def __le__(self, own):
        return self.used(own) >= 1

    def __gt__(self, own):
        return self.used(own) < 1

    def __rtruediv__(self, own):
        return self.used(own)


MAX_SEQ_LEN = TASK["max_seq_len"]  # context length
TIME_BUDGET = TASK["time_budget"]  # training budget: seconds of CLOCK, or steps
EVAL_TOKENS = TASK["eval_tokens"]  # number of tokens scored for val_bpb
VOCAB_SIZE = TASK["vocab_size"]    # BPE vocabulary, special tokens included
CLOCK = TASK["clock"]              # "wall", "cpu" or "steps"
if CLOCK != "steps":
    TIME_BUDGET = Budget(TIME_BUDGET)

EVAL_ROWS = max(1, 2**14 // MAX_SEQ_LEN)  # rows scored at a time, whatever batch size train.py trains with

if CLOCK != "wall":
    torch.set_num_threads(1)

# ---------------------------------------------------------------------------
# Device
# ---------------------------------------------------------------------------


def pick_device(wanted=None):
    """What to train on: `wanted` (the harness says, in METARESEARCH_DEVICE), else the best there is."""
    if wanted not in (None, "cpu", "cuda", "mps"):
        raise SystemExit(f"METARESEARCH_DEVICE must be cpu, cuda or mps, not {wanted!r}.")
    if wanted == "cpu":
        return "cpu"
    if wanted == "cuda" or torch.cuda.is_available():
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as e:
            raise SystemExit(f"FAIL: no GPU can be used: {str(e).splitlines()[0]}") from None
        return "cuda"
    mps = torch.backends.mps.is_available()
    if wanted == "mps" and not mps:
        raise SystemExit("FAIL: no Apple GPU can be used: torch finds no MPS device.")
    return "mps" if mps else "cpu"


def check_compiler():
    """torch.compile on a GPU needs Triton, and Triton needs a C compiler: say so before it fails."""
    import importlib.util

    if importlib.util.find_spec("triton") is None:
        raise SystemExit("FAIL: Cannot find a working triton installation; install the one your torch names.")
    if not (os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang", "cc")))):
        raise SystemExit("FAIL: Failed to find C compiler. Install gcc or clang, or name one in CC.")


# dense bf16, FLOP/s, from the makers' data sheets; the first whose words are in the device's name counts
PEAK_FLOPS = {
    "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12,
    "RTX 5090": 209e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}


def peak_flops():
    """Of this device, for the share of it that a training uses; None where we do not know it."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    if re.search(r"\bMIG\b|\bLaptop\b", name):  # a part of the card, or a slower one of that name
        return None
    return next((flops for words, flops in PEAK_FLOPS.items() if re.search(rf"\b{words}\b", name)), None)


DEVICE = pick_device(os.environ.get("METARESEARCH_DEVICE"))

# ---------------------------------------------------------------------------
# Cache: where prepared data lives, and whether it is whole
# ---------------------------------------------------------------------------


def cache_dir(task):
    """METARESEARCH_CACHE, else a folder named after everything in the task that changes the data."""
    if os.environ.get("METARESEARCH_CACHE"):
        return os.environ["METARESEARCH_CACHE"]
    home = os.environ.get("METARESEARCH_HOME") or "results"
    fields = [task["corpus"], task["vocab_size"], task["max_seq_len"]]
    key = hashlib.sha256(json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
    return os.path.join(home, "cache", f"{task['name']}-{key[:8]}")


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


# ---------------------------------------------------------------------------
# Tokenizer
# ---------------------------------------------------------------------------


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
        return len(self.tokens)  # the first special token

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
# Packing: documents to rows
# ---------------------------------------------------------------------------

POOL_PIECES = 4096  # pieces to choose from; also how far documents are shuffled
PACK_SEED = 0       # the order of the data is part of the task: the same for every experiment


def find_documents(tokens, bos, window=1 << 20):
    """(start, length) of every document's text; the BOS in front of it is left out."""
    start = len(tokens)
    for at in range(0, len(tokens), window):
        for hit in (np.flatnonzero(tokens[at:at + window] == bos) + at).tolist():
            if hit > start:
                yield start, hit - start
            start = hit + 1
    if start < len(tokens):
        yield start, len(tokens) - start


class Packer:
    """
    Fills rows of `length` tokens with pieces of documents, each behind a BOS, so every row starts with one.

    A document longer than a row is cut into pieces that fill rows, and a rest. A row takes the longest piece
    that fits, again and again; when none fits, the shortest is cropped and what is left of it goes back into
    the pool. So every token of text is used exactly once an epoch. A single last place gets a lone BOS.
    Pieces lie in bins by the places they need, and bit n of `mask` says that bin n holds one: the longest
    that fits is one bit_length away, however many pieces there are. Within a bin the choice is random.
    """

    def __init__(self, tokens, bos, length, endless):
        self.tokens, self.bos, self.length, self.endless = tokens, bos, length, endless
        self.bins = [[] for _ in range(length + 1)]
        self.mask = self.held = 0
        self.epoch = 1
        if endless and next(find_documents(tokens, bos), None) is None:
            raise SystemExit("The training data holds no text. Run prepare.py again.")
        self.documents = find_documents(tokens, bos)
        self.rng = random.Random(PACK_SEED)

    def put(self, start, need):
        self.bins[need].append(start)
        self.mask |= 1 << need
        self.held += 1

    def take(self, need):
        pieces = self.bins[need]
        i = int(self.rng.random() * len(pieces))
        pieces[i], pieces[-1] = pieces[-1], pieces[i]
        start = pieces.pop()
        if not pieces:
            self.mask ^= 1 << need
        self.held -= 1
        return start

    def refill(self):
        whole = self.length - 1
        while self.held < POOL_PIECES and self.documents is not None:
            for start, size in self.documents:
                for at in range(start, start + size, whole):
                    self.put(at, 1 + min(whole, start + size - at))
                if self.held >= POOL_PIECES:
                    return
            self.documents = find_documents(self.tokens, self.bos) if self.endless else None
            self.epoch += self.endless

    def plan_row(self):
        """[(place, start, size)]: where in the row which text goes; None when a finite stream runs dry."""
        plan, place = [], 0
        while (space := self.length - place) > 1:
            if self.held < POOL_PIECES:
                self.refill()
            if not self.mask:
                return None
            fitting = self.mask & ((2 << space) - 1)
            need = (fitting.bit_length() if fitting else (self.mask & -self.mask).bit_length()) - 1
            start, used = self.take(need), min(need, space)
            if need > used:
                self.put(start + used - 1, 1 + need - used)
            plan.append((place, start, used - 1))
            place += used
        return plan

    def fill(self, rows):
        """Writes the next rows into an array (N, length); returns how many there were."""
        rows[:] = self.bos
        for i, row in enumerate(rows):
            plan = self.plan_row()
            if plan is None:
                return i
            for place, start, size in plan:
                row[place + 1:place + 1 + size] = self.tokens[start:start + size]
        return len(rows)


def pack_rows(tokens, bos, length):
    """All rows of one pass over a split, uint16 (N, length); a last row that cannot be filled is left out."""
    packer, parts = Packer(np.asarray(tokens), bos, length, endless=False), []
    while True:
        rows = np.empty((1024, length), dtype="<u2")
        filled = packer.fill(rows)
        parts.append(rows[:filled])
        if filled < len(rows):
            return np.concatenate(parts)


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
    return (step if CLOCK == "steps" else _clock() - _released_at) / TASK["time_budget"]


def map_split(name):
    cache = cache_dir(TASK)
    if read_manifest(cache) is None:
        raise SystemExit(f"No complete data in {cache}. Run prepare.py first.")
    return np.memmap(os.path.join(cache, f"{name}.bin"), dtype="<u2", mode="r")


def release_train():
    global _train_tokens, _released_at
    if _train_tokens is None:
        tokens = HARNESS.request_data() if HARNESS else map_split("train")
        _train_tokens = np.asarray(tokens)  # the same pages; slices of a plain array cost less
        _released_at = _clock()
    return _train_tokens


def search_rows():
    """The rows that are scored, uint16 (N, MAX_SEQ_LEN + 1): inputs and, shifted by one, targets."""
    return map_split("search").reshape(-1, MAX_SEQ_LEN + 1)[:max(1, EVAL_TOKENS // MAX_SEQ_LEN)]


class Loader:
    """
    Yields (x, y, epoch) for ever: token ids (B, T) and the same shifted by one, on DEVICE. Nothing is read
    before the first batch is asked for. `rows` counts the rows given out so far: a loader made with that
    number as `first_row` goes on exactly there, whatever its B.

    On a GPU a thread packs ahead into pinned memory, so that no step waits for its data; on a CPU that
    thread would only take time from the step, and packing is a small part of it.
    """

    def __init__(self, B, first_row, source):
        self.B, self.rows, self.source, self.batches = B, first_row, source, None

    def __iter__(self):
        return self

    def __next__(self):
        if self.batches is None:
            batches = self.source(self.rows)
            self.batches = batches if DEVICE == "cpu" else read_ahead(batches)
        batch, epoch = next(self.batches)
        self.rows += self.B
        if DEVICE != "cpu":
            batch = batch.to(DEVICE, non_blocking=DEVICE == "cuda")  # safe from pinned memory only
        return batch[:, :-1], batch[:, 1:], epoch


def packed_batches(bos, B, T, first_row):
    """Training rows (B, T + 1) from the packer; the first one asks the harness for the data."""
    packer = Packer(release_train(), bos, T + 1, endless=True)
    for _ in range(first_row):
        packer.plan_row()
    while True:
        rows = np.empty((B, T + 1), dtype=np.int64)
        packer.fill(rows)
        yield torch.from_numpy(rows), packer.epoch


def search_batches(B, T, first_row):
    rows, at = search_rows(), first_row
    while True:
        indices = np.arange(at, at + B)
        batch = rows[indices % len(rows), :T + 1].astype(np.int64)
        yield torch.from_numpy(batch), 1 + at // len(rows)
        at += B


def read_ahead(batches, depth=4):
    """The same batches, made by a thread that stays `depth` ahead and hands on what it fails with."""
    ready, stop = queue.Queue(depth), threading.Event()

    def work():
        try:
            for batch, epoch in batches:
                ready.put((batch.pin_memory() if DEVICE == "cuda" else batch, epoch))
                if stop.is_set():
                    return
        except BaseException as e:
            ready.put(e)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        while not ready.empty():  # makes room for the batch the thread may be waiting to hand over
            ready.get()


def make_dataloader(tokenizer, B, T, split, buffer_size=POOL_PIECES, first_row=0):
    """An endless Loader over a split; `buffer_size` is upstream's and has no effect here."""
    assert split in ("train", "val"), f"Unknown split {split!r}. Known: train, val."
    if split == "val" and HARNESS:
        raise RuntimeError("The validation text stays with the scorer: only `train` can be read here.")
    if split == "val":
        return Loader(B, first_row, lambda row: search_batches(B, T, row))
    bos = tokenizer.get_bos_token_id()
    return Loader(B, first_row, lambda row: packed_batches(bos, B, T, row))


# ---------------------------------------------------------------------------
# Evaluation (fixed, do not modify: this is the metric)
# ---------------------------------------------------------------------------


@torch.no_grad()
def compute_logits(model, rows):
    """model(x) on rows of token ids, as float32: the same code alone and under the harness."""
    device = next(model.parameters()).device
    return model(torch.from_numpy(rows.astype(np.int64)).to(device)).float()


def score_search_split(model):
    rows, token_bytes = search_rows(), get_token_bytes()
    total_nats, total_bytes = 0.0, 0
    for i in range(0, len(rows), EVAL_ROWS):
        part = rows[i:i + EVAL_ROWS]
        y = torch.from_numpy(part[:, 1:].astype(np.int64)).flatten()
        logits = compute_logits(model, part[:, :-1])
        nats = F.cross_entropy(logits.flatten(0, 1), y.to(logits.device), reduction="none")
        nbytes = token_bytes[y]
        total_nats += nats.cpu().double()[nbytes > 0].sum().item()
        total_bytes += nbytes.sum().item()
    return total_nats / (math.log(2) * total_bytes)


def evaluate_bpb(model, tokenizer, batch_size):
    """
    Bits per byte of the search shard: nats of every target that stands for bytes, over ln 2 times the bytes.
    Special tokens stand for none and are left out of both sums. Independent of the vocabulary, and of
    `batch_size`, which is upstream's: the rows scored at a time are fixed.
    """
    was_training = model.training
    model.eval()
    try:
        if HARNESS:
            return HARNESS.score(model, tokenizer.get_vocab_size())
        return score_search_split(model)
    finally:
        model.train(was_training)


# ---------------------------------------------------------------------------
# Main
# ---------------------------------------------------------------------------


def main():
    from functools import partial

    from inner_loop.corpora import build, command

    parser = argparse.ArgumentParser(description="Prepare data and tokenizer for experiments, once.")
    parser.add_argument("--task", help="task file (default: task.json beside prepare.py, else upstream's)")
    parser.add_argument("--cache", help="folder to fill (default: METARESEARCH_CACHE, else results/cache)")
    command.add_arguments(parser)
    args = parser.parse_args()
    task = load_task(args.task) if args.task else TASK
    cache = Path(args.cache or cache_dir(task))
    tools = build.Tools(tokenizer=Tokenizer, pack=pack_rows)
    with command.sentences(cache):
        build.prepare(task, cache, command.source_from(args, task), tools, partial(print, flush=True))


if __name__ == "__main__":
    main()
