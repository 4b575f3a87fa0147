"""The editable file as shipped: a causal model, honest optimizers, the printed contract."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
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
    "value_embeds": True,
    "rope_base": 10000,
    "softcap": 15.0,
    "init_scale": 1.0,
}
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


# Optimizers


def singular_values(shape, steps=8):
    return torch.linalg.svdvals(train.orthogonalize(torch.randn(shape), steps))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 16, 64)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = singular_values(shape)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_orthogonalize_keeps_the_singular_vectors():
    torch.manual_seed(0)
    G = torch.randn(8, 24)
    U, _, Vt = torch.linalg.svd(G, full_matrices=False)
    core = U.mT @ train.orthogonalize(G[None], 8)[0] @ Vt.mT
    assert (core - core.diag().diag()).abs().max() < 1e-4


def plain_muon(weights, gradients, lr, momentum, steps, decay):
    """One matrix at a time, straight from the definition."""
    done = []
    for W, grads in zip(weights, gradients, strict=True):
        velocity = torch.zeros_like(W)
        for G in grads:
            velocity = momentum * velocity + (1 - momentum) * G
            X = momentum * velocity + (1 - momentum) * G
            X = X.mT if W.size(0) > W.size(1) else X
            X = X / X.norm()
            for _ in range(steps):
                A = X @ X.mT
                X = 3.4445 * X - 4.7750 * A @ X + 2.0315 * A @ A @ X
            X = X.mT if W.size(0) > W.size(1) else X
            W = W * (1 - lr * decay) - lr * max(1, W.size(0) / W.size(1)) ** 0.5 * X
        done.append(W)
    return done


def test_muon_equals_a_plain_reference_on_square_wide_and_tall_matrices():
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 32), (32, 8), (8, 8)]
    weights = [torch.randn(s) for s in shapes]
    gradients = [[torch.randn(s) for _ in range(3)] for s in shapes]
    params = [torch.nn.Parameter(w.clone()) for w in weights]
    muon = train.Muon(params, lr=0.1, momentum=0.9, ns_steps=5, weight_decay=0.2)
    for i in range(3):
        for p, grads in zip(params, gradients, strict=True):
            p.grad = grads[i]
        muon.step()
    for p, expected in zip(params, plain_muon(weights, gradients, 0.1, 0.9, 5, 0.2), strict=True):
        assert torch.allclose(p, expected, atol=1e-4)


def test_adamw_equals_torchs():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(5, 4)) for _ in range(2))
    adamw = train.AdamW(
        [{"params": [ours], "lr": 0.05}], betas=(0.8, 0.95), eps=1e-8, weight_decay=0.1
    )
    reference = torch.optim.AdamW([theirs], lr=0.05, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.1)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(5, 4)
        adamw.step()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


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
    assert [train.lr_multiplier(used) for used in (0.0, 0.4999)] == [1.0, 1.0]
    assert train.lr_multiplier(0.75) == pytest.approx(0.5)
    assert train.lr_multiplier(1.0) == train.lr_multiplier(1.2) == train.FINAL_LR_FRAC


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
    for name, value in changes.items():
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
    done = run_train(box, TOTAL_BATCH_SIZE=64, DEVICE_BATCH_SIZE=2)
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
