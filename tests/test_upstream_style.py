"""A train.py in upstream's manner runs, is scored, and does the same arithmetic as ours."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inner_loop.home import REPOSITORY
from inner_loop.literals import with_start
from inner_loop.records import Measured, Track
from inner_loop.tracks import load_track

sys.path.insert(0, str(REPOSITORY))

import train as ours

SOURCE = (REPOSITORY / "benchmarks" / "upstream_style.py").read_text(encoding="utf-8")
SMALL = {
    "DEPTH": 2,
    "ASPECT_RATIO": 32,
    "HEAD_DIM": 16,
    "TOTAL_BATCH_SIZE": 512,
    "DEVICE_BATCH_SIZE": 8,
}
KEYS = [
    "val_bpb",
    "training_seconds",
    "total_seconds",
    "peak_vram_mb",
    "mfu_percent",
    "total_tokens_M",
    "num_steps",
    "num_params_M",
    "depth",
]


def small() -> str:
    return with_start(SOURCE, SMALL)


# --- its manner -------------------------------------------------------------------------------


def test_it_is_a_script_that_trains_at_import() -> None:
    tree = ast.parse(SOURCE)
    functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    assert not functions & {"main", "build_model"}
    assert "__name__" not in SOURCE
    assert any(isinstance(node, ast.While) for node in tree.body)


def test_it_takes_from_prepare_what_upstream_takes() -> None:
    taken = [n for n in ast.walk(ast.parse(SOURCE)) if isinstance(n, ast.ImportFrom)]
    names = {alias.name for n in taken if n.module == "prepare" for alias in n.names}
    upstream = {"MAX_SEQ_LEN", "TIME_BUDGET", "Tokenizer", "make_dataloader", "evaluate_bpb"}
    assert names == upstream
    assert "evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)" in SOURCE


def test_its_summary_has_upstreams_nine_keys_in_order() -> None:
    block = SOURCE.partition('print("---")\n')[2]
    assert [line.split('"')[1].split(":")[0] for line in block.splitlines()] == KEYS


# --- under the harness ------------------------------------------------------------------------


def check_scored(measured: Measured) -> float:
    assert measured.crash is None, measured.error
    assert measured.search_bpb is not None
    assert measured.claims.val_bpb == pytest.approx(measured.search_bpb, abs=6e-7)
    assert None not in measured.claims.model_dump().values()
    return measured.search_bpb


def test_it_is_scored_on_the_quick_track(train: Callable[..., Measured], quick: Track) -> None:
    """On a `steps` track its own clock takes the number for seconds: there is no limit to pass."""
    measured = train(small(), track=quick.model_copy(update={"time_budget": 1}))
    assert check_scored(measured) < 3.9  # an untrained model: about 5.4
    assert measured.claims.num_steps is not None
    assert measured.claims.num_steps > 11


def test_on_seconds_it_is_in_time_and_near_ours_however_slow_its_first_steps(
    train: Callable[..., Measured], quick: Track
) -> None:
    tiny = load_track("tiny-cpu").model_copy(update={"task": quick.task})
    waiting = "    if step == 0:\n        while time.process_time() < 3.5:\n            pass\n"
    loop = "while True:\n"
    assert small().count(loop) == 1
    slow = small().replace(loop, loop + waiting)
    our_own = check_scored(train(track=tiny))
    for source in (small(), slow):
        theirs = train(source, track=tiny)
        assert check_scored(theirs) == pytest.approx(our_own, abs=0.4)
        assert theirs.clock_seconds <= tiny.time_budget * (1 + tiny.limits.overtime_fraction)


# --- the same arithmetic, written twice -------------------------------------------------------


@pytest.fixture(scope="module")
def theirs() -> types.ModuleType:
    """Its definitions, without the part that trains."""
    module = types.ModuleType("upstream_style")
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    exec(compile(SOURCE.partition("# --- Setup")[0], "upstream_style.py", "exec"), module.__dict__)
    return module


def config_of(theirs: types.ModuleType) -> object:
    return theirs.Config(vocab_size=40, context=12, depth=3, width=32, heads=4, windows=(12, 6, 12))


def built(theirs: types.ModuleType) -> torch.nn.Module:
    torch.manual_seed(0)
    model = theirs.GPT(config_of(theirs))
    model.init_weights()
    return model


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(8, 24), (24, 8), (16, 16)]), st.integers(0, 1000), st.booleans())
def test_both_muons_make_the_same_step(
    theirs: types.ModuleType, shape: tuple[int, int], seed: int, fresh: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    before = [torch.randn(shape, generator=random) for _ in range(3)]
    grads = [torch.randn(shape, generator=random) for _ in range(3)]
    group = theirs.MuonAdamW(
        [
            {
                "kind": "muon",
                "params": [p.clone() for p in before],
                "lr": 0.04,
                "momentum": 0.9,
                "decay": 0.1,
            }
        ]
    )
    mine = [p.clone() for p in before]
    muon = ours.Muon(mine, lr=0.04, momentum=0.9, beta2=0.95, ns_steps=5, weight_decay=0.1)
    for _ in range(1 if fresh else 3):
        for params in (mine, group.param_groups[0]["params"]):
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad.clone()
        muon.step()
        group.step()
    for p, q in zip(mine, group.param_groups[0]["params"], strict=True):
        assert torch.allclose(p, q, atol=2e-4)


def test_both_adamws_make_the_same_steps(theirs: types.ModuleType) -> None:
    torch.manual_seed(0)
    start = torch.randn(7, 5)
    mine, other = start.clone(), start.clone()
    adamw = ours.AdamW([{"params": [mine], "lr": 0.1, "weight_decay": 0.0}], betas=(0.8, 0.95))
    group = theirs.MuonAdamW(
        [{"kind": "adamw", "params": [other], "lr": 0.1, "betas": (0.8, 0.95)}]
    )
    for _ in range(4):
        mine.grad = torch.randn(7, 5)
        other.grad = mine.grad.clone()
        adamw.step()
        group.step()
    assert torch.allclose(mine, other, atol=1e-5)
    assert not torch.allclose(mine, start, atol=0.05)


def test_its_model_is_causal_and_starts_knowing_nothing(theirs: types.ModuleType) -> None:
    model, x = built(theirs), torch.randint(40, (2, 12))
    assert model(x, x).item() == pytest.approx(torch.tensor(40.0).log().item(), abs=0.02)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    changed = x.clone()
    changed[:, 7] = (x[:, 7] + 1) % 40
    assert torch.allclose(model(x)[:, :7], model(changed)[:, :7], atol=1e-5)
    assert not torch.allclose(model(x)[:, 7:], model(changed)[:, 7:], atol=1e-3)


def test_its_blocks_hold_as_many_weights_as_ours(theirs: types.ModuleType) -> None:
    config = {
        "vocab_size": 40,
        "sequence_len": 12,
        "depth": 3,
        "width": 32,
        "head_dim": 8,
        "mlp_ratio": 4,
        "softcap": 15.0,
    }
    config |= {"window_pattern": "LSL", "short_window": 2, "value_embeds": True, "rope_base": 10000}
    mine = ours.build_model(config | {"init_scale": 1.0, "embed_skip": 0.1})
    assert ours.window_sizes(mine.config) == list(config_of(theirs).windows)  # type: ignore[attr-defined]
    counts = [sum(p.numel() for p in m.parameters()) for m in (mine, built(theirs))]
    assert counts[0] == counts[1]  # width 32: the gate reads every channel in both
