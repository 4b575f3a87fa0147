"""The editable file as shipped: a causal model, honest optimizers, the printed contract."""

import contextlib
import copy
import gc
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import train  # noqa: E402

CONFIG = {
    "vocab_size": 50,
    "sequence_len": 12,
    "depth": 3,
    "width": 32,
    "head_dim": 8,
    "mlp_ratio": 4,
    "window_pattern": "SL",
    "short_window": 4,
    "value_embeds": True,
    "rope_base": 10000,
    "softcap": 15.0,
    "init_scale": 1.0,
    "embed_skip": 0.1,
}
SMALL = {"DEPTH": 2, "WIDTH": 32, "HEAD_DIM": 8, "TOTAL_BATCH_SIZE": 64, "DEVICE_BATCH_SIZE": 2}
LITERAL = re.compile(r"^([A-Z][A-Z_]+) = (\([^)]*\)|[^\s#]+) +# \S", re.M)
SUMMARY = [
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


def stirred_model(**changes):
    """A model whose zero-initialised weights are not zero any more."""
    torch.manual_seed(0)
    model = train.build_model({**CONFIG, **changes})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def tokens(rows=2):
    return torch.randint(CONFIG["vocab_size"], (rows, CONFIG["sequence_len"]))


# Model


def test_a_later_token_does_not_move_earlier_logits():
    model, x = stirred_model(), tokens()
    changed = x.clone()
    changed[:, 7] = (x[:, 7] + 1) % CONFIG["vocab_size"]
    before, after = model(x), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.isclose(before[:, 7:], after[:, 7:]).all(-1).any()


def test_a_row_does_not_move_the_logits_of_another():
    model, x = stirred_model(), tokens()
    assert torch.allclose(model(x)[1], model(x[1:])[0], atol=1e-5)


def test_positions_matter():
    logits = stirred_model()(torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4]]))
    assert not torch.isclose(logits[0, -1], logits[1, -1]).all()


def test_the_softcap_bounds_the_logits():
    model, free = stirred_model(softcap=2.0), stirred_model(softcap=0)
    for m in (model, free):
        torch.nn.init.normal_(m.head.weight, std=10.0)
    x = tokens()
    assert model(x).abs().max() <= 2.0 < free(x).abs().max()


def test_an_untrained_model_knows_nothing():
    model, x = train.build_model(CONFIG), tokens(8)
    assert model(x, x).item() == pytest.approx(torch.tensor(50.0).log().item(), abs=0.02)


def test_forward_gives_logits_or_a_loss_of_any_reduction():
    model, x = stirred_model(), tokens()
    losses = model(x, x, reduction="none")
    assert model(x).shape == (2, 12, 50)
    assert losses.shape == (24,)
    assert model(x, x).item() == pytest.approx(losses.mean().item())


def test_a_config_and_weights_rebuild_the_model():
    model, x = stirred_model(), tokens()
    again = train.build_model(json.loads(json.dumps(model.config)))
    again.load_state_dict(model.state_dict())
    assert torch.equal(model(x), again.eval()(x))


@pytest.mark.parametrize(("depth", "layers"), [(1, [0]), (2, [1]), (3, [0, 2]), (4, [1, 3])])
def test_value_embeddings_sit_on_every_other_layer_and_the_last(depth, layers):
    model = train.build_model({**CONFIG, "depth": depth})
    assert [i for i, b in enumerate(model.blocks) if b.attention.value_embed is not None] == layers


# Attention


def plain_attention(q, k, v, window):
    """One query at a time, straight from the definition; (B, T, heads, channels)."""
    B, T, H, D = q.shape
    y = torch.empty_like(v)
    for b, i, h in itertools.product(range(B), range(T), range(H)):
        seen = range(max(0, i - window), i + 1)
        scores = torch.stack([(q[b, i, h] * k[b, j, h]).sum() / D**0.5 for j in seen])
        y[b, i, h] = (scores.softmax(0)[:, None] * v[b, seen.start : i + 1, h]).sum(0)
    return y


def qkv(T=9):
    torch.manual_seed(0)
    return [torch.randn(2, T, 2, 8) for _ in range(3)]


@pytest.mark.parametrize("window", [1, 2, 5, 8, 9, 64])
def test_a_window_equals_a_plain_reference(window):
    q, k, v = qkv()
    y = train.attend(q, k, v, window)
    assert torch.allclose(y, plain_attention(q, k, v, window), atol=1e-5)


def test_the_window_mask_is_the_dense_mask():
    mask = train.window_mask(6, 2, "cpu")
    assert mask.tolist() == [[0 <= i - j <= 2 for j in range(6)] for i in range(6)]


def test_layers_take_their_windows_in_turn_and_the_last_sees_everything():
    config = {**CONFIG, "depth": 6, "window_pattern": "SSL", "short_window": 8, "sequence_len": 64}
    assert train.window_sizes(config) == [8, 8, 64, 8, 8, 64]
    assert train.window_sizes({**config, "depth": 2}) == [8, 64]
    assert train.window_sizes({**config, "sequence_len": 4, "depth": 2}) == [1, 4]


def test_a_token_out_of_every_window_is_not_seen():
    model = stirred_model(depth=2, window_pattern="S", short_window=4)
    for block in model.blocks:
        block.attention.window = 3
    x = tokens()
    changed = x.clone()
    changed[:, 0] = (x[:, 0] + 1) % CONFIG["vocab_size"]
    before, after = model(x), model(changed)
    assert torch.equal(before[:, 7:], after[:, 7:])  # two layers see 2 * 3 tokens back
    assert not torch.isclose(before[:, :7], after[:, :7]).all(-1).any()


def flash(name):
    """A stand-in with FlashAttention's layout and window, but not its speed."""
    module = types.ModuleType(name)

    def flash_attn_func(q, k, v, causal, window_size):
        assert causal
        assert window_size[1] == 0
        return plain_attention(q, k, v, window_size[0])

    module.flash_attn_func = flash_attn_func
    return module


@pytest.mark.parametrize(
    ("installed", "capability", "found"),
    [
        (["flash_attn_interface", "flash_attn"], (9, 0), "flash_attn_interface"),
        (["flash_attn"], (9, 0), "flash_attn"),
        (["flash_attn_interface", "flash_attn"], (8, 0), "flash_attn"),
        (["flash_attn_interface"], (8, 0), None),
        ([], (9, 0), None),
    ],
)
def test_flash_attention_is_used_where_it_is_installed(monkeypatch, installed, capability, found):
    monkeypatch.setattr(train, "BF16", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    for name in ("flash_attn_interface", "flash_attn"):
        monkeypatch.setitem(sys.modules, name, flash(name) if name in installed else None)
    function = train.find_flash()
    assert (function and function is sys.modules[found].flash_attn_func) or function is found
    monkeypatch.setattr(train, "FLASH", function)
    q, k, v = qkv()
    assert torch.allclose(train.attend(q, k, v, 3), plain_attention(q, k, v, 3), atol=1e-5)


def test_on_a_cpu_there_is_nothing_to_look_for():
    assert train.find_flash() is None


# Capture: what a GPU would compile is traced whole here, without a compiler or a GPU


def captured(function):
    return torch.compile(function, backend="aot_eager", dynamic=False, fullgraph=True)


def take_steps(model, optimizers, steps):
    x = torch.randint(CONFIG["vocab_size"], (2, 13), generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        model(x[:, :-1], x[:, 1:]).backward()
        train.follow_schedule(*optimizers, step, step / 10)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_optimizers_are_captured_whole_and_never_again_from_step_to_step(monkeypatch):
    eager = stirred_model()
    expected = take_steps(eager, train.build_optimizers(eager), 5)
    monkeypatch.setattr(train, "COMPILED", True)
    for name in ("muon_update", "adamw_update"):
        monkeypatch.setattr(train, name, captured(getattr(train, name)))
    torch._dynamo.reset()
    model = stirred_model()
    optimizers = train.build_optimizers(model)
    take_steps(model, optimizers, 1)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model.load_state_dict(stirred_model().state_dict())
    for optimizer in optimizers:
        optimizer.reset()
    assert torch.allclose(take_steps(model, optimizers, 5), expected, atol=2e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_flex_attention_is_captured_whole_and_equals_the_dense_mask(monkeypatch):
    from torch.nn.attention import flex_attention as flex

    model, x = stirred_model(), tokens()
    loss = model(x, x)
    loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)  # it trains on GPUs only
    monkeypatch.setattr(train, "BF16", True)
    monkeypatch.setattr(train, "BLOCK_MASKS", {})
    train.make_block_masks(12, train.window_sizes(CONFIG))
    assert list(train.BLOCK_MASKS) == [(12, 3)]
    torch._dynamo.reset()
    flexed = captured(model)(x, x)
    flexed.backward()
    assert flexed.item() == pytest.approx(loss.item(), abs=1e-5)
    for p, grad in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, grad, atol=1e-5)


def test_where_flex_attention_fails_the_windows_are_masks_and_the_training_goes_on(
    monkeypatch, capsys
):
    monkeypatch.setattr(train, "BF16", True)
    monkeypatch.setattr(train, "COMPILED", True)
    monkeypatch.setattr(train, "BLOCK_MASKS", {})
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    model = stirred_model()
    forward = warmed_up(monkeypatch, model, train.build_optimizers(model))
    assert "FlexAttention fails here" in capsys.readouterr().out
    assert train.BLOCK_MASKS == {}
    x = tokens()
    assert forward(x, x).item() == pytest.approx(model(x, x).item(), abs=1e-5)


def test_a_failure_that_is_not_flex_attentions_is_raised(monkeypatch):
    def broken(*_):
        raise RuntimeError("an edit's own mistake")

    model = stirred_model()
    monkeypatch.setattr(model.blocks[0], "forward", broken)
    with pytest.raises(RuntimeError, match="own mistake"):
        warmed_up(monkeypatch, model, train.build_optimizers(model))


@pytest.mark.parametrize("widened", [False, True])
def test_on_a_gpu_activations_are_bf16_and_weights_and_logits_float32(monkeypatch, widened):
    rms_norm = torch.nn.functional.rms_norm
    if widened:  # what autocast does to it on CUDA from torch 2.12 on
        monkeypatch.setattr(torch.nn.functional, "rms_norm", lambda x, s: rms_norm(x.float(), s))
    monkeypatch.setattr(train, "DTYPE", torch.bfloat16)
    model, x, kinds = stirred_model(), tokens(), {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: kinds.update({name: o.dtype}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.float32
        model(x, x).backward()
    blocks = {
        kind for name, kind in kinds.items() if ".value_embed" not in name and "blocks" in name
    }
    assert blocks == {torch.bfloat16}
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


# Optimizers


def singular_values(shape, steps=5):
    return torch.linalg.svdvals(train.orthogonalize(torch.randn(shape), steps))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 64)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = singular_values(shape)
    assert values.min() > 0.7
    assert values.max() < 1.3


def test_orthogonalize_keeps_the_singular_vectors():
    torch.manual_seed(0)
    G = torch.randn(8, 24)
    U, _, Vt = torch.linalg.svd(G, full_matrices=False)
    core = U.mT @ train.orthogonalize(G[None], 5)[0] @ Vt.mT
    assert (core - core.diag().diag()).abs().max() < 1e-4


def plain_muon(W, grads, lr, momentum, beta2, decay, steps):
    """One matrix at a time, straight from the papers: rows are neurons."""
    velocity, spread = torch.zeros_like(W), None
    for G in grads:
        velocity = momentum * velocity + (1 - momentum) * G
        X = momentum * velocity + (1 - momentum) * G
        X = X / (1.02 * X.norm() + 1e-6)
        for a, b, c in train.POLAR_EXPRESS[:steps]:
            S = X @ X.mT
            X = a * X + b * S @ X + c * S @ S @ X
        longer = 1 if W.size(0) >= W.size(1) else 0  # one number per line along the longer side
        squares = X.square().mean(longer, keepdim=True)
        spread = (1 - beta2) * squares + (0 if spread is None else beta2 * spread)
        even = X / spread.sqrt()
        even = even * X.norm() / even.norm()
        agrees = (even * W >= 0).float()
        W = W - lr * max(1, W.size(0) / W.size(1)) ** 0.5 * (even + decay * agrees * W)
    return W


def test_muon_equals_a_plain_reference_on_square_wide_and_tall_matrices():
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 32), (32, 8), (8, 8), (2, 8)]
    weights = [torch.randn(s) for s in shapes]
    gradients = [[torch.randn(s) for _ in range(3)] for s in shapes]
    params = [torch.nn.Parameter(w.clone()) for w in weights]
    muon = train.Muon(params, lr=0.1, momentum=0.9, beta2=0.8, ns_steps=5, weight_decay=0.2)
    for i in range(3):
        for p, grads in zip(params, gradients, strict=True):
            p.grad = grads[i]
        muon.step()
    for p, W, grads in zip(params, weights, gradients, strict=True):
        assert torch.allclose(p, plain_muon(W, grads, 0.1, 0.9, 0.8, 0.2, 5), atol=1e-4)


def test_adamw_equals_torchs():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(5, 4)) for _ in range(2))
    adamw = train.AdamW([{"params": [ours], "lr": 0.05, "weight_decay": 0.1}], betas=(0.8, 0.95))
    reference = torch.optim.AdamW([theirs], lr=0.05, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.1)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(5, 4)
        adamw.step()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_momentum_rises_and_decay_falls_over_the_schedule():
    model = train.build_model(CONFIG)
    adamw, muon = train.build_optimizers(model)
    train.follow_schedule(adamw, muon, 0, 0.0)
    assert {g["momentum"] for g in muon.param_groups} == {0.85}
    assert {g["weight_decay"] for g in muon.param_groups} == {train.WEIGHT_DECAY}
    train.follow_schedule(adamw, muon, 10 * train.MOMENTUM_WARMUP, 1.0)
    assert {g["momentum"] for g in muon.param_groups} == {train.MUON_MOMENTUM}
    assert {g["weight_decay"] for g in muon.param_groups} == {0.0}
    for group in (*adamw.param_groups, *muon.param_groups):
        assert group["lr"] == pytest.approx(group["peak_lr"] * train.FINAL_LR_FRAC)


def warmed_up(monkeypatch, model, optimizers):
    monkeypatch.setattr(train, "MAX_SEQ_LEN", 12)
    try:
        return train.warm_up(model, optimizers, 2, 1, contextlib.nullcontext())
    finally:
        gc.enable()
        gc.unfreeze()


def test_warming_up_leaves_no_trace(monkeypatch):
    torch.manual_seed(3)
    model = stirred_model().train()
    model.register_buffer("running", torch.zeros(3))
    model.register_forward_pre_hook(lambda m, _: setattr(m, "running", m.running + 1))
    optimizers = train.build_optimizers(model)
    expected = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    warmed_up(monkeypatch, model, optimizers)
    assert model.state_dict().keys() == expected[0].keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[0][name]), name
    assert torch.equal(torch.get_rng_state(), expected[1])
    assert all(p.grad is None for p in model.parameters())
    fresh = stirred_model()
    fresh.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(
        take_steps(model, optimizers, 3), take_steps(fresh, train.build_optimizers(fresh), 3)
    )


@pytest.mark.parametrize(
    ("total", "most", "passes"), [(128, 64, 2), (128, 48, 4), (128, 200, 1), (7, 3, 7), (1, 1, 1)]
)
def test_a_batch_too_large_for_one_pass_is_shared_evenly_and_never_shrinks(
    monkeypatch, total, most, passes
):
    monkeypatch.setattr(train, "DEVICE_BATCH_SIZE", most)
    assert train.forward_passes(total) == passes
    assert total % passes == 0


def test_every_weight_has_exactly_one_optimizer():
    model = train.build_model(CONFIG)
    placed = [
        p
        for optimizer in train.build_optimizers(model)
        for g in optimizer.param_groups
        for p in g["params"]
    ]
    assert sorted(map(id, placed)) == sorted(map(id, model.parameters()))


def test_the_learning_rate_is_flat_and_then_falls_to_its_end():
    falls = 1 - train.WARMDOWN_RATIO
    assert [train.lr_multiplier(used) for used in (0.0, falls - 1e-6)] == [1.0, 1.0]
    halfway = train.lr_multiplier(1 - train.WARMDOWN_RATIO / 2)
    assert halfway == pytest.approx((1 + train.FINAL_LR_FRAC) / 2)
    assert train.lr_multiplier(1.0) == train.lr_multiplier(1.2) == train.FINAL_LR_FRAC


def test_flops_count_every_weight_that_multiplies_and_the_windows():
    model = train.build_model(CONFIG)
    block = 4 * 32 * 32 + 2 * 4 * 32 * 32
    gates, head = 2 * 4 * 32, 50 * 32
    windows = 3 + 12 + 12
    assert model.flops_per_token() == 6 * (3 * block + gates + head) + 12 * 32 * windows


# Text: the literals a tool rewrites, the block a tool reads


def literals():
    return dict(LITERAL.findall((ROOT / "train.py").read_text()))


def test_the_literals_on_top_are_plain_and_can_be_rewritten_one_by_one():
    source, names = (ROOT / "train.py").read_text(), literals()
    assert {
        "DEPTH",
        "WIDTH",
        "EMBEDDING_LR",
        "MATRIX_LR",
        "ADAM_BETAS",
        "WARMDOWN_RATIO",
        "SOFTCAP",
    } <= set(names)
    for name, value in names.items():
        assert eval(value, {}) == getattr(train, name)
        changed, count = re.subn(rf"(?m)^{name} = .+?(?= +#)", f"{name} = 7", source)
        assert count == 1
        assert dict(LITERAL.findall(changed))[name] == "7"
        compile(changed, "train.py", "exec")


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A folder with both files and a small prepared corpus."""
    folder, rng = tmp_path_factory.mktemp("box"), random.Random(0)
    for name in ("prepare.py", "train.py"):
        shutil.copy(ROOT / name, folder)
    (folder / "task.json").write_text(
        json.dumps(
            {
                "name": "test",
                "corpus": "letters",
                "vocab_size": 280,
                "max_seq_len": 16,
                "eval_tokens": 512,
                "clock": "steps",
                "time_budget": 4,
            }
        )
    )
    texts = [f"{i} " + "".join(rng.choices("abcdefg \n", k=200)) for i in range(200)]
    pq.write_table(pa.table({"text": texts}), folder / "letters.parquet")
    prepared = subprocess.run(
        [sys.executable, "prepare.py", "--corpus", "letters.parquet"],
        cwd=folder,
        env=box_environment(folder),
        capture_output=True,
        text=True,
    )
    assert prepared.returncode == 0, prepared.stderr
    return folder


def box_environment(folder):
    return {"PATH": os.environ["PATH"], "METARESEARCH_CACHE": str(folder / "cache")}


def run_train(folder, **changes):
    source = (ROOT / "train.py").read_text()
    for name, value in (SMALL | changes).items():
        source = re.sub(rf"(?m)^{name} = .+?(?= +#)", f"{name} = {value}", source)
    (folder / "edited.py").write_text(source)
    return subprocess.run(
        [sys.executable, "edited.py"],
        cwd=folder,
        env=box_environment(folder),
        capture_output=True,
        text=True,
    )


def test_a_training_prints_upstreams_summary_block(box):
    done = run_train(box)
    assert done.returncode == 0, done.stderr
    block = done.stdout.split("\n---\n")[1]
    values = dict(line.split(":") for line in block.splitlines())
    assert list(values) == SUMMARY
    assert all(re.fullmatch(r" +\d+(\.\d+)?", value) for value in values.values())
    assert int(values["num_steps"]) == 4
    assert 0 < float(values["val_bpb"]) < 10


def test_a_loss_that_is_not_a_number_fails_fast(box):
    done = run_train(box, SOFTCAP="float('nan')")
    assert done.returncode == 1
    assert re.search(r"^FAIL: loss is nan at step \d+$", done.stdout, re.M)
    assert "val_bpb" not in done.stdout


def test_an_exploding_loss_fails_fast():
    with pytest.raises(SystemExit) as exit:
        train.fail_fast(100.5, 3)
    assert exit.value.code == 1
    train.fail_fast(99.5, 3)
