"""The run box and the conversation with it, on real processes; one claim each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from inner_loop.records import Measured, Track

Train = Callable[..., Measured]

HAND_OVER = """
import torch, prepare
tokenizer = prepare.Tokenizer.from_directory()
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros({vocab}))
    def forward(self, idx, targets=None, reduction="mean"):
        return self.w.expand(*idx.shape, {vocab}) + {extra}
model = Model()
x, y, epoch = next(prepare.make_dataloader(tokenizer, 2, prepare.MAX_SEQ_LEN, "train"))
{work}
print("got", prepare.evaluate_bpb(model, tokenizer, 4))
"""


def hand_over(work: str = "", vocab: int = 512, extra: str = "0") -> str:
    return HAND_OVER.format(work=work, vocab=vocab, extra=extra)


def with_limits(track: Track, **limits: float) -> Track:
    return track.model_copy(update={"limits": track.limits.model_copy(update=limits)})


def on_cpu_clock(track: Track, seconds: float) -> Track:
    return track.model_copy(update={"clock": "cpu", "time_budget": seconds})


def test_the_shipped_train_py_is_measured_and_told_the_scorers_number(train: Train) -> None:
    measured = train()
    assert measured.crash is None, measured.error
    assert measured.search_bpb is not None
    assert measured.claims.val_bpb == pytest.approx(measured.search_bpb, abs=1e-6)
    assert measured.audit_bpb is None
    assert measured.trust == "untrusted"
    assert measured.startup_seconds > 0
    assert measured.memory_gb > 0.05


def test_equal_seeds_give_equal_numbers_and_other_seeds_do_not(train: Train) -> None:
    first, again, other = train(seed=1), train(seed=1), train(seed=2)
    assert first.search_bpb == again.search_bpb
    assert first.search_bpb != other.search_bpb


def test_a_uniform_model_scores_log2_of_the_vocabulary_per_token(train: Train) -> None:
    measured = train(hand_over())
    assert measured.search_bpb is not None
    assert 2 < measured.search_bpb < 9  # 9 bits a token, one byte a token at the least


def test_what_train_py_prints_is_a_claim_and_never_the_score(train: Train) -> None:
    lie = "\nprint('---'); print('val_bpb:          0.100000')"
    measured = train(hand_over() + lie)
    assert measured.search_bpb is not None
    assert measured.search_bpb > 1
    assert measured.claims.val_bpb == 0.1


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("raise ValueError('boom')", "exception", "boom"),
        ("import sys; sys.exit(3)", "exception", "exit code 3"),
        ("def (:", "syntax", "SyntaxError"),
        ("print('FAIL: loss is nan'); raise SystemExit(1)", "nan", "FAIL"),
        (hand_over(extra="float('nan')"), "nan", "not finite"),
        ("print('done')", "no_result", "without calling evaluate_bpb"),
        (hand_over(vocab=300), "bad_logits", "bytes instead of"),
        ("x = bytearray(3 << 30)", "oom", "memory"),
        ("import os; os.kill(os.getpid(), 9)", "oom", "killed from outside"),
        ("import os\nos.write(int(os.environ['METARESEARCH_FD']), b'xxxxxxxx')", "", ""),
    ],
)
def test_every_way_to_fail_has_its_own_code(
    train: Train, quick: Track, source: str, code: str, words: str
) -> None:
    track = with_limits(quick, memory_gb=1.0, wall_seconds=60)
    measured = train(source, track=track)
    assert measured.search_bpb is None
    if code:
        assert measured.crash == code, measured.error
        assert any(word in measured.error for word in words.split("|")), measured.error
    else:
        assert measured.crash is not None


def test_memory_taken_bit_by_bit_by_children_is_an_oom(train: Train, quick: Track) -> None:
    source = (
        "import os, time\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        x = bytearray(os.urandom(1 << 20)) * 300\n"
        "        time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    measured = train(source, track=with_limits(quick, memory_gb=0.6))
    assert measured.crash == "oom"
    assert measured.wall_seconds < 30


def test_a_sleeping_hang_is_ended_by_the_wall_limit(train: Train, quick: Track) -> None:
    measured = train("import time; time.sleep(1000)", track=with_limits(quick, wall_seconds=2))
    assert measured.crash == "timeout"
    assert measured.wall_seconds < 20


def test_a_busy_hang_before_the_data_is_ended_by_the_cpu_limit(train: Train, quick: Track) -> None:
    track = with_limits(on_cpu_clock(quick, 1), startup_seconds=1, wall_seconds=200)
    measured = train("while True: pass", track=track)
    assert measured.crash == "timeout"
    assert "CPU" in measured.error


def test_a_busy_hang_after_the_data_is_ended_by_the_cpu_limit(train: Train, quick: Track) -> None:
    track = with_limits(on_cpu_clock(quick, 0.5), wall_seconds=200)
    measured = train(hand_over(work="while True: pass"), track=track)
    assert measured.crash == "timeout"


def test_a_late_hand_over_is_overtime_and_scores_nothing(train: Train, quick: Track) -> None:
    work = "import time\nwhile time.process_time() - prepare_start < 1.2: pass"
    source = hand_over(work=work).replace(
        "x, y, epoch", "import time; prepare_start = time.process_time() + 0.0\nx, y, epoch"
    )
    measured = train(source, track=on_cpu_clock(quick, 0.5))
    assert measured.crash == "overtime", measured.error
    assert measured.search_bpb is None
    assert measured.clock_seconds > 0.9


def test_the_cpu_clock_counts_children_and_not_the_start_up(train: Train, quick: Track) -> None:
    spin = "t = time.process_time()\n    while time.process_time() - t < 0.7: pass\n    os._exit(0)"
    work = f"import os, time\npid = os.fork()\nif pid == 0:\n    {spin}\nos.waitpid(pid, 0)"
    measured = train(hand_over(work=work), track=on_cpu_clock(quick, 3))
    assert measured.crash is None, measured.error
    assert 0.6 < measured.clock_seconds < 1.5


def test_children_nobody_waits_for_are_on_the_cpu_clock(train: Train, quick: Track) -> None:
    spin = "t = time.process_time()\n    while time.process_time() - t < 1.5: pass\n    os._exit(0)"
    work = (
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"pid = os.fork()\nif pid == 0:\n    {spin}\n"
        "while os.path.exists(f'/proc/{pid}'): time.sleep(0.05)"
    )
    measured = train(hand_over(work=work), track=on_cpu_clock(quick, 3))
    assert measured.crash is None, measured.error
    assert measured.clock_seconds > 1.0


def test_a_crash_has_its_seconds_on_the_clock(train: Train, quick: Track) -> None:
    work = "import time\nwhile time.process_time() < 90: pass"
    measured = train(hand_over(work=work), track=on_cpu_clock(quick, 0.5))
    assert measured.crash == "timeout"
    assert measured.clock_seconds > 1


def test_learning_on_while_being_scored_is_capped(train: Train, quick: Track) -> None:
    source = hand_over().replace(
        "        return self.w", "        while True: pass\n        return self.w"
    )
    track = with_limits(on_cpu_clock(quick, 1), scoring_seconds=0.5)
    measured = train(source, track=track)
    assert measured.crash == "timeout"
    assert measured.search_bpb is None
    assert measured.wall_seconds < 60


def test_a_box_that_kills_its_launcher_is_a_crash_and_leaves_nothing(
    train: Train, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    source = (
        "import os, signal, time\n"
        "launcher = os.getppid()\n"
        "if os.fork() == 0:\n"
        f"    print(os.getpid(), file=open({str(pid)!r}, 'w'))\n"
        "    os.kill(launcher, signal.SIGKILL)\n"
        "    time.sleep(600)\n"
        "time.sleep(600)\n"
    )
    measured = train(source)
    assert measured.crash is not None
    assert measured.wall_seconds < 30
    assert not _is_running(int(pid.read_text()))


def test_too_many_processes_end_the_box(train: Train, quick: Track) -> None:
    source = (
        "import os, time\n"
        "for _ in range(20):\n"
        "    if os.fork() == 0: time.sleep(600)\n"
        "time.sleep(600)\n"
    )
    measured = train(source, track=with_limits(quick, processes=8))
    assert measured.crash is not None
    assert measured.wall_seconds < 60


def test_nothing_of_the_harness_is_in_the_environment(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    measured = train("import os; print(sorted(os.environ)); raise SystemExit(1)")
    assert "METARESEARCH_SEED" in measured.error
    for hidden in ("ANTHROPIC", "METARESEARCH_HOME", "VIRTUAL_ENV"):
        assert hidden not in measured.error


def test_the_scratch_folder_is_fresh_and_gone_afterwards(train: Train, tmp_path: Path) -> None:
    measured = train("import os; print(sorted(os.listdir())); raise SystemExit(1)")
    files = "['home', 'prepare.py', 'task.json', 'tmp', 'tokenizer', 'train.py']"
    assert files in measured.error
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_process_that_detaches_itself_dies_with_the_box(train: Train, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    source = (
        "import os, signal, sys, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"            print(os.getpid(), file=open({str(pids)!r}, 'a'))\n"
        "            time.sleep(600)\n"
        "        os._exit(0)\n"
        f"while not os.path.exists({str(pids)!r}) or open({str(pids)!r}).read().count('\\n') < 3:\n"
        "    time.sleep(0.05)\n"
        "sys.exit(1)\n"
    )
    measured = train(source)
    assert measured.crash == "exception"
    alive = [int(p) for p in pids.read_text().split() if _is_running(int(p))]
    assert alive == []


def test_a_flood_of_output_is_cut_and_not_kept_in_memory(train: Train, quick: Track) -> None:
    track = with_limits(quick, file_mb=1.0, wall_seconds=60)
    measured = train("while True: print('x' * 1000)", track=track)
    assert measured.crash is not None
    assert len(measured.error) < 3000


def test_control_characters_in_the_output_do_not_reach_the_ledger(train: Train) -> None:
    measured = train("print('\\x1b[31mred\\x00'); raise SystemExit(1)")
    assert "\x1b" not in measured.error
    assert "\x00" not in measured.error
    assert "red" in measured.error


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_cancelled_job_ends_at_once(prepared: Path, quick: Track, tmp_path: Path) -> None:
    from inner_loop.execute import Job, Site, execute

    began = time.monotonic()
    job = Job(
        run_id="x",
        index=1,
        files={"train.py": "import time; time.sleep(100)", "prepare.py": "", "task.json": "{}"},
        track=quick,
        seed=1,
        shards=("search",),
        data=os.listdir(prepared)[0],  # noqa: PTH208
    )
    measured = execute(job, Site(prepared, tmp_path / "s"), 0, cancelled=lambda: True)
    assert measured.crash == "timeout"
    assert time.monotonic() - began < 10
