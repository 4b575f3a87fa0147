"""
Pretraining script: one device, one file, one fixed budget. This is the file a researcher edits.
It owns the model, the optimizer, the schedule and the loop. Data, tokenizer, clock and metric are not its
own: they come from prepare.py.

Usage: python train.py
"""

import gc
import math
import os
import sys
import time
from contextlib import nullcontext

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import torch
import torch.nn as nn
import torch.nn.functional as F

from prepare import MAX_SEQ_LEN, Tokenizer, evaluate_bpb, make_dataloader, progress

# ---------------------------------------------------------------------------
# Hyperparameters (edit them here; there are no flags)
# ---------------------------------------------------------------------------

# Model
DEPTH = 2                # number of transformer layers
WIDTH = 64               # residual stream channels
HEAD_DIM = 16            # channels per attention head, divides WIDTH
MLP_RATIO = 4            # hidden channels of the MLP per residual channel
VALUE_EMBEDS = True      # token embeddings added to the values of every other layer
ROPE_BASE = 10000        # longest wavelength of the rotary embedding
SOFTCAP = 15.0           # logits are squashed into (-SOFTCAP, SOFTCAP), 0 = off
INIT_SCALE = 1.0         # multiplies the initial spread of the matrices

# Optimization
TOTAL_BATCH_SIZE = 512   # tokens per optimizer step
DEVICE_BATCH_SIZE = 64   # most rows in one forward pass (reduce if OOM)
EMBEDDING_LR = 0.02      # learning rate for token and value embeddings (AdamW)
UNEMBEDDING_LR = 0.003   # learning rate for the output head (AdamW)
MATRIX_LR = 0.04         # learning rate for the matrices (Muon)
SCALAR_LR = 0.02         # learning rate for per-layer scalars and gates (AdamW)
WEIGHT_DECAY = 0.1       # decoupled weight decay on the matrices
ADAM_BETAS = (0.8, 0.95) # AdamW beta1, beta2
MUON_MOMENTUM = 0.95     # Muon momentum (Nesterov)
NS_STEPS = 5             # Newton-Schulz iterations per Muon step
GRAD_CLIP = 0.0          # largest gradient norm, 0 = off

# Schedule
WARMUP_RATIO = 0.0       # fraction of the budget for learning rate warmup
WARMDOWN_RATIO = 0.5     # fraction of the budget for learning rate warmdown
FINAL_LR_FRAC = 0.0      # final learning rate as a fraction of the peak

SEED = 42                # initial weights
LOG_EVERY = 100          # steps between log lines

# ---------------------------------------------------------------------------
# GPT model
# ---------------------------------------------------------------------------


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def has_value_embed(layer, depth):
    return (depth - 1 - layer) % 2 == 0  # every other layer, counted from the last


def rotary_tables(length, head_dim, base):
    frequencies = base ** -(torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        width, self.head_dim = config["width"], config["head_dim"]
        self.heads = width // self.head_dim
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        embeds = config["value_embeds"] and has_value_embed(layer, config["depth"])
        self.value_embed = nn.Embedding(config["vocab_size"], width) if embeds else None
        self.value_gate = nn.Linear(width, self.heads, bias=False) if embeds else None

    def forward(self, x, idx, cos, sin):
        B, T, C = x.shape
        heads = (B, T, self.heads, self.head_dim)
        q, k, v = self.query(x).view(heads), self.key(x).view(heads), self.value(x).view(heads)
        if self.value_embed is not None:
            gate = 2 * torch.sigmoid(self.value_gate(x)).unsqueeze(-1)
            v = v + gate * self.value_embed(idx).view(heads)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden = int(config["mlp_ratio"] * config["width"])
        self.up = nn.Linear(config["width"], hidden, bias=False)
        self.down = nn.Linear(hidden, config["width"], bias=False)

    def forward(self, x):
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, idx, cos, sin):
        x = x + self.attention(norm(x), idx, cos, sin)
        x = x + self.mlp(norm(x))
        return x


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        assert config["width"] % config["head_dim"] == 0, "WIDTH must be a multiple of HEAD_DIM"
        self.config = config
        self.embed = nn.Embedding(config["vocab_size"], config["width"])
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config["depth"]))
        self.head = nn.Linear(config["width"], config["vocab_size"], bias=False)
        self.residual_scale = nn.Parameter(torch.ones(config["depth"]))       # weight of the stream
        self.embed_scale = nn.Parameter(torch.full((config["depth"],), 0.1))  # weight of the first embedding
        cos, sin = rotary_tables(config["sequence_len"], config["head_dim"], config["rope_base"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self):
        spread = self.config["init_scale"] * self.config["width"] ** -0.5
        nn.init.normal_(self.embed.weight, std=1.0)
        nn.init.normal_(self.head.weight, std=0.001)
        for block in self.blocks:
            attention, mlp = block.attention, block.mlp
            for linear in (attention.query, attention.key, attention.value, mlp.up):
                nn.init.normal_(linear.weight, std=spread)
            nn.init.zeros_(attention.out.weight)  # every block starts as the identity
            nn.init.zeros_(mlp.down.weight)
            if attention.value_embed is not None:
                nn.init.normal_(attention.value_embed.weight, std=spread)
                nn.init.zeros_(attention.value_gate.weight)

    def forward(self, idx, targets=None, reduction="mean"):
        T = idx.size(1)
        cos, sin = self.cos[:T], self.sin[:T]
        x = x0 = norm(self.embed(idx))
        for layer, block in enumerate(self.blocks):
            x = self.residual_scale[layer] * x + self.embed_scale[layer] * x0
            x = block(x, idx, cos, sin)
        logits = self.head(norm(x)).float()
        softcap = self.config["softcap"]
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=reduction)

    def flops_per_token(self):
        """Forward and backward: 6 per weight that multiplies, and the attention scores."""
        matrices = sum(p.numel() for p in matrix_params(self)) + self.head.weight.numel()
        return 6 * matrices + 12 * self.config["depth"] * self.config["width"] * self.config["sequence_len"]


def model_config(vocab_size):
    return {
        "vocab_size": vocab_size, "sequence_len": MAX_SEQ_LEN, "depth": DEPTH, "width": WIDTH,
        "head_dim": HEAD_DIM, "mlp_ratio": MLP_RATIO, "value_embeds": VALUE_EMBEDS,
        "rope_base": ROPE_BASE, "softcap": SOFTCAP, "init_scale": INIT_SCALE,
    }


def build_model(config):
    """The model of a plain dict; the scorer calls this to put saved weights back into place."""
    return GPT(config)


# ---------------------------------------------------------------------------
# Optimizer: Muon for the matrices, AdamW for the rest
# ---------------------------------------------------------------------------


def orthogonalize(G, steps):
    """Moves the singular values of a batch of wide matrices towards 1 (Newton-Schulz, quintic)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / (G.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, B, X, beta=a)
    return X


class Muon:
    """Momentum, then the nearest orthogonal matrix. Equal shapes, transposed or not, go in one batch."""

    def __init__(self, params, lr, momentum, ns_steps, weight_decay):
        shapes = {}
        for p in params:
            shapes.setdefault(tuple(sorted(p.shape)), []).append(p)
        settings = dict(lr=lr, momentum=momentum, ns_steps=ns_steps, weight_decay=weight_decay)
        self.param_groups = [dict(settings, params=group) for group in shapes.values()]

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            self.step_group(group)

    def step_group(self, group):
        params, momentum, lr = group["params"], group["momentum"], group["lr"]
        G = torch.stack([p.grad if p.size(0) <= p.size(1) else p.grad.mT for p in params])
        if "velocity" not in group:
            group["velocity"] = torch.zeros_like(G)
        velocity = group["velocity"].lerp_(G, 1 - momentum)
        U = orthogonalize(low_precision(G.lerp(velocity, momentum)), group["ns_steps"]).to(G.dtype)
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        for p, u in zip(params, U.unbind(), strict=True):
            rows, cols = p.shape
            p.add_(u if rows <= cols else u.mT, alpha=-lr * max(1.0, rows / cols) ** 0.5)


class AdamW:
    """The usual one, on lists of tensors. (torch.optim spends a second on imports before the first step.)"""

    def __init__(self, groups, betas, eps, weight_decay):
        settings = dict(betas=betas, eps=eps, weight_decay=weight_decay)
        self.param_groups = [dict(settings, **group) for group in groups]
        self.steps = 0

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for group in self.param_groups:
            self.step_group(group)

    def step_group(self, group):
        params, lr, (beta1, beta2) = group["params"], group["lr"], group["betas"]
        grads = [p.grad for p in params]
        if "mean" not in group:
            group["mean"] = [torch.zeros_like(p) for p in params]
            group["square"] = [torch.zeros_like(p) for p in params]
        torch._foreach_lerp_(group["mean"], grads, 1 - beta1)
        torch._foreach_mul_(group["square"], beta2)
        torch._foreach_addcmul_(group["square"], grads, grads, 1 - beta2)
        spread = torch._foreach_sqrt(group["square"])
        torch._foreach_div_(spread, math.sqrt(1 - beta2 ** self.steps))
        torch._foreach_add_(spread, group["eps"])
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_addcdiv_(params, group["mean"], spread, -lr / (1 - beta1 ** self.steps))


def low_precision(x):
    return x.bfloat16() if x.is_cuda else x


def matrix_params(model):
    """The weights Muon moves: every linear layer of the blocks but the gates."""
    return [m.weight for name, m in model.blocks.named_modules()
            if isinstance(m, nn.Linear) and not name.endswith("value_gate")]


def build_optimizers(model):
    embeds = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    matrices = matrix_params(model)
    placed = {id(p) for p in (*embeds, *matrices, model.head.weight)}
    scalars = [p for p in model.parameters() if id(p) not in placed]
    groups = [
        dict(params=embeds, lr=EMBEDDING_LR),
        dict(params=[model.head.weight], lr=UNEMBEDDING_LR),
        dict(params=scalars, lr=SCALAR_LR),
    ]
    adamw = AdamW(groups, betas=ADAM_BETAS, eps=1e-10, weight_decay=0.0)
    muon = Muon(matrices, lr=MATRIX_LR, momentum=MUON_MOMENTUM, ns_steps=NS_STEPS, weight_decay=WEIGHT_DECAY)
    for optimizer in (adamw, muon):
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return adamw, muon


# ---------------------------------------------------------------------------
# Schedule
# ---------------------------------------------------------------------------


def lr_multiplier(used):
    """Flat, then straight down to FINAL_LR_FRAC; `used` is the fraction of the budget gone."""
    if used < WARMUP_RATIO:
        return used / WARMUP_RATIO
    if used < 1 - WARMDOWN_RATIO:
        return 1.0
    left = max(0.0, 1 - used) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRAC


def set_learning_rates(optimizers, used):
    multiplier = lr_multiplier(used)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * multiplier


# ---------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------

PEAK_FLOPS = 989.5e12  # H100 and H200, bf16, for mfu_percent


def fail_fast(loss, step):
    if math.isnan(loss) or loss > 100:
        print(f"FAIL: loss is {loss} at step {step}")
        sys.exit(1)


def log(step, used, loss, epoch):
    end = "\r" if sys.stdout.isatty() and used < 1 else "\n"
    print(f"step {step:05d} ({100 * used:.1f}%) | loss: {loss:.4f} | epoch: {epoch}", end=end, flush=True)


def warm_up(model, rows, device, autocast):
    """Compiles and warms on made-up tokens: nothing can be learnt from them, so it comes before the data."""
    tokens = torch.randint(model.config["vocab_size"], (rows * MAX_SEQ_LEN + 1,), device=device)
    x, y = tokens[:-1].view(rows, MAX_SEQ_LEN), tokens[1:].view(rows, MAX_SEQ_LEN)
    forward = torch.compile(model, dynamic=False) if device == "cuda" else model
    with autocast:
        loss = forward(x, y)
    loss.backward()
    model.zero_grad(set_to_none=True)
    gc.collect()
    gc.freeze()  # collections in the loop would only find what is still in use
    gc.disable()
    return forward


def train(model, forward, optimizers, loader, accumulate, autocast):
    """Steps until the budget is used; returns the number of steps."""
    step, value = 0, math.nan
    x, y, epoch = next(loader)
    while (used := progress(step)) < 1:
        for _ in range(accumulate):
            with autocast:
                loss = forward(x, y)
            (loss / accumulate).backward()
            x, y, epoch = next(loader)
        if GRAD_CLIP:
            nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        set_learning_rates(optimizers, used)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        fail_fast(value := loss.item(), step)
        if step % LOG_EVERY == 0:
            log(step, used, value, epoch)
        step += 1
    log(step, used, value, epoch)
    return step


def print_summary(summary):
    print("---")
    for key, value in summary.items():
        print(f"{key + ':':<17} {value}")


def main():
    started = time.perf_counter()
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cuda = device == "cuda"
    autocast = torch.autocast("cuda", dtype=torch.bfloat16) if cuda else nullcontext()

    tokenizer = Tokenizer.from_directory()
    model = build_model(model_config(tokenizer.get_vocab_size())).to(device)
    optimizers = build_optimizers(model)
    total_rows = max(1, TOTAL_BATCH_SIZE // MAX_SEQ_LEN)
    rows = min(DEVICE_BATCH_SIZE, total_rows)
    accumulate = total_rows // rows
    forward = warm_up(model, rows, device, autocast)

    loader = make_dataloader(tokenizer, rows, MAX_SEQ_LEN, "train")
    released = time.perf_counter()
    steps = train(model, forward, optimizers, loader, accumulate, autocast)
    training_seconds = time.perf_counter() - released

    with autocast:
        val_bpb = evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)

    tokens = steps * accumulate * rows * MAX_SEQ_LEN
    mfu = 100 * model.flops_per_token() * tokens / training_seconds / PEAK_FLOPS if cuda else 0.0
    print_summary({
        "val_bpb": f"{val_bpb:.6f}",
        "training_seconds": f"{training_seconds:.1f}",
        "total_seconds": f"{time.perf_counter() - started:.1f}",
        "peak_vram_mb": f"{torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0:.1f}",
        "mfu_percent": f"{mfu:.2f}",
        "total_tokens_M": f"{tokens / 1e6:.1f}",
        "num_steps": steps,
        "num_params_M": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
        "depth": DEPTH,
    })


if __name__ == "__main__":
    main()
