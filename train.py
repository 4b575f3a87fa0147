"""
Pretraining script: one device, one file, one fixed budget. This is the file a researcher edits.
It owns the model, the optimizer, the schedule and the loop. Data, tokenizer, clock and metric are not its
own: they come from prepare.py.

Usage: python train.py
"""

import gc
import importlib
import math
import os
import sys
import time
from contextlib import nullcontext

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import torch
import torch.nn as nn
import torch.nn.functional as F

from prepare import DEVICE, MAX_SEQ_LEN, Tokenizer, evaluate_bpb, make_dataloader
from prepare import check_compiler, peak_flops, progress

# ---------------------------------------------------------------------------
# Hyperparameters (edit them here; there are no flags)
# ---------------------------------------------------------------------------

# Model
DEPTH = 9                # number of transformer layers
WIDTH = 512              # residual stream channels
HEAD_DIM = 128           # channels per attention head, divides WIDTH
MLP_RATIO = 4            # hidden channels of the MLP per residual channel
WINDOW_PATTERN = "SSSSL" # layers in turn: L sees the whole context, S a short window; the last is always L
SHORT_WINDOW = 8         # a short window is the context divided by this
VALUE_EMBEDS = True      # token embeddings added to the values of every other layer
ROPE_BASE = 200000       # longest wavelength of the rotary embedding
SOFTCAP = 15.0           # logits are squashed into (-SOFTCAP, SOFTCAP), 0 = off
INIT_SCALE = 0.68        # multiplies the initial spread of the matrices
EMBED_SKIP = 0.05        # initial weight of the first embedding in every layer

# Optimization
TOTAL_BATCH_SIZE = 2**18 # tokens per optimizer step
DEVICE_BATCH_SIZE = 64   # most rows in one forward pass (reduce if OOM)
EMBEDDING_LR = 0.9       # learning rate for token and value embeddings (AdamW), at width 768
UNEMBEDDING_LR = 0.005   # learning rate for the output head (AdamW), at width 768
MATRIX_LR = 0.04         # learning rate for the matrices (Muon)
SCALAR_LR = 0.5          # learning rate for per-layer scalars (AdamW)
WEIGHT_DECAY = 0.2       # decay of the matrices, where it agrees with the update; falls to 0
EMBEDDING_DECAY = 0.001  # decay of the token embeddings
VALUE_DECAY = 0.003      # decay of the value embeddings
UNEMBEDDING_DECAY = 0.01 # decay of the output head
ADAM_BETAS = (0.8, 0.95) # AdamW beta1, beta2
MUON_MOMENTUM = 0.95     # Muon momentum (Nesterov)
MOMENTUM_WARMUP = 200    # steps over which it rises from 0.85
MUON_BETA2 = 0.95        # memory of the spread by which Muon evens out neurons
NS_STEPS = 5             # orthogonalization iterations per Muon step, at most 5
GRAD_CLIP = 0.0          # largest gradient norm, 0 = off

# Schedule
WARMUP_RATIO = 0.0       # fraction of the budget for learning rate warmup
WARMDOWN_RATIO = 0.75    # fraction of the budget for learning rate warmdown
FINAL_LR_FRAC = 0.05     # final learning rate as a fraction of the peak

SEED = 42                # initial weights
LOG_EVERY = 100          # steps between log lines

# ---------------------------------------------------------------------------
# Attention: FlashAttention where installed, else FlexAttention (compiled), else PyTorch's own
# ---------------------------------------------------------------------------


BF16 = DEVICE == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
DTYPE = torch.bfloat16 if BF16 else torch.float32  # of activations; weights stay float32


def find_flash():
    """FlashAttention-3 on Hopper, FlashAttention-2 elsewhere, if installed; both know windows."""
    if not BF16:
        return None
    hopper = torch.cuda.get_device_capability() == (9, 0)
    for package in ("flash_attn_interface", "flash_attn") if hopper else ("flash_attn",):
        try:
            return importlib.import_module(package).flash_attn_func
        except (ImportError, OSError, AttributeError):
            continue


FLASH = find_flash()
BLOCK_MASKS = {}  # (length, window) -> which blocks FlexAttention may skip


def window_mask(length, window, device):
    """True where row i may look at column j: itself and the `window` tokens before it."""
    i = torch.arange(length, device=device)
    back = i[:, None] - i[None, :]
    return (back >= 0) & (back <= window)


def make_block_masks(length, windows):
    if FLASH or not BF16:
        return
    global flex_attention
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    for window in {w for w in windows if w < length}:
        allowed = lambda b, h, i, j, window=window: (i >= j) & (i - j <= window)  # noqa: E731
        BLOCK_MASKS[length, window] = create_block_mask(allowed, None, None, length, length, device=DEVICE)


def attend(q, k, v, window):
    """Causal attention over (B, T, heads, channels); each token sees itself and `window` before it."""
    T = q.size(1)
    if FLASH:
        y = FLASH(q, k, v, causal=True, window_size=(window, 0))
        return y[0] if isinstance(y, tuple) else y
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if window >= T:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    elif (T, window) in BLOCK_MASKS and torch.compiler.is_compiling():
        y = flex_attention(q, k, v, block_mask=BLOCK_MASKS[T, window])
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=window_mask(T, window, q.device))
    return y.transpose(1, 2)


# ---------------------------------------------------------------------------
# GPT model
# ---------------------------------------------------------------------------

def norm(x):
    return F.rms_norm(x, (x.size(-1),)).to(x.dtype)  # autocast of torch 2.12 and later widens it


def has_value_embed(layer, depth):
    return (depth - 1 - layer) % 2 == 0  # every other layer, counted from the last


def window_sizes(config):
    """How many tokens back each layer sees."""
    whole = config["sequence_len"]
    sizes = {"L": whole, "S": max(1, whole // config["short_window"])}
    pattern = config["window_pattern"]
    windows = [sizes[pattern[layer % len(pattern)]] for layer in range(config["depth"])]
    return [*windows[:-1], whole]


def rotary_tables(length, head_dim, base):
    frequencies = base ** -(torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        width, self.head_dim = config["width"], config["head_dim"]
        self.heads = width // self.head_dim
        self.window = window_sizes(config)[layer]
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
            v = v + gate * self.value_embed(idx).view(heads).to(v.dtype)
        q, k = norm(rotate(q, cos, sin)).to(v.dtype), norm(rotate(k, cos, sin)).to(v.dtype)
        return self.out(attend(q, k, v, self.window).reshape(B, T, C))


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
        depth, width, vocab_size = config["depth"], config["width"], config["vocab_size"]
        assert width % config["head_dim"] == 0, "WIDTH must be a multiple of HEAD_DIM"
        self.config = config
        self.embed = nn.Embedding(vocab_size, width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(depth))
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.residual_scale = nn.Parameter(torch.ones(depth))                           # of the stream
        self.embed_scale = nn.Parameter(torch.full((depth,), config["embed_skip"]))     # of the first embedding
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
        x = x0 = norm(self.embed(idx).to(DTYPE))
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
        """Forward and backward: 6 per weight that multiplies, and the attention scores in their windows."""
        matrices = sum(p.numel() for p in matrix_params(self)) + self.head.weight.numel()
        seen = sum(min(window, self.config["sequence_len"]) for window in window_sizes(self.config))
        return 6 * matrices + 12 * self.config["width"] * seen


def model_config(vocab_size):
    return {
        "vocab_size": vocab_size, "sequence_len": MAX_SEQ_LEN, "depth": DEPTH, "width": WIDTH,
        "head_dim": HEAD_DIM, "mlp_ratio": MLP_RATIO, "window_pattern": WINDOW_PATTERN,
        "short_window": SHORT_WINDOW, "value_embeds": VALUE_EMBEDS, "rope_base": ROPE_BASE,
        "softcap": SOFTCAP, "init_scale": INIT_SCALE, "embed_skip": EMBED_SKIP,
    }


def build_model(config):
    """The model of a plain dict; the scorer calls this to put saved weights back into place."""
    return GPT(config)


# ---------------------------------------------------------------------------
# Optimizer: Muon for the matrices, AdamW for the rest
# ---------------------------------------------------------------------------

COMPILED = DEVICE == "cuda"

# (a, b, c) of the quintic of each iteration: Polar Express, arXiv 2505.16932
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def as_scalar(value):
    """A number that changes from step to step, in the form that does not make a compiled step compile again."""
    return torch.full((), value, device=DEVICE) if COMPILED else value


def orthogonalize(G, steps):
    """Moves the singular values of a batch of wide matrices towards 1."""
    X = G / (1.02 * G.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    for a, b, c in POLAR_EXPRESS[:steps]:
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, B, X, beta=a)
    return X


def lay_wide(matrices):
    """Stacks matrices (rows, cols) as (n, short, long)."""
    return torch.stack([m if m.size(0) < m.size(1) else m.mT for m in matrices])


def muon_update(params, grads, velocity, spread, scale, lr, momentum, beta2, decay, steps):
    """Momentum, nearest orthogonal matrix, even neurons (arXiv 2510.05491), cautious decay (2510.12402)."""
    G, W = lay_wide(grads), lay_wide(params)
    velocity.lerp_(G, 1 - momentum)
    U = orthogonalize(G.lerp(velocity, momentum).to(DTYPE), steps).float()
    size = U.norm(dim=(-2, -1), keepdim=True)
    spread.lerp_(U.square().mean(dim=-2, keepdim=True), 1 - beta2)
    U = U * spread.clamp_min(1e-10).rsqrt()
    U = U * (size / U.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))
    W = W - lr * scale * (U + decay * W * (U * W >= 0))
    for p, w in zip(params, W.unbind(), strict=True):
        p.copy_(w if p.size(0) < p.size(1) else w.mT)


def adamw_update(p, grad, mean, square, lr, step, beta1, beta2, decay):
    mean.lerp_(grad, 1 - beta1)
    square.lerp_(grad.square(), 1 - beta2)
    update = mean / ((square / (1 - beta2 ** step)).sqrt() + 1e-10)
    p.mul_(1 - lr * decay)
    p.sub_(update * (lr / (1 - beta1 ** step)))


if COMPILED:
    muon_update = torch.compile(muon_update, dynamic=False, fullgraph=True)
    adamw_update = torch.compile(adamw_update, dynamic=False, fullgraph=True)


class Muon:
    """Matrices of equal shape, transposed or not, are updated in one batch."""

    def __init__(self, params, lr, momentum, beta2, ns_steps, weight_decay):
        settings = dict(lr=lr, momentum=momentum, beta2=beta2, ns_steps=ns_steps, weight_decay=weight_decay)
        shapes = {}
        for p in params:
            shapes.setdefault(tuple(sorted(p.shape)), []).append(p)
        self.param_groups = [dict(settings, params=group) for group in shapes.values()]
        self.reset()

    def reset(self):
        for group in self.param_groups:
            wide = lay_wide(group["params"]).detach()
            group["velocity"], group["spread"] = torch.zeros_like(wide), torch.zeros_like(wide[:, :1])
            tall = [max(1.0, p.size(0) / p.size(1)) ** 0.5 for p in group["params"]]
            group["scale"] = torch.tensor(tall, device=wide.device).view(-1, 1, 1)

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            scalars = map(as_scalar, (g["lr"], g["momentum"], g["beta2"], g["weight_decay"]))
            grads = [p.grad for p in g["params"]]
            muon_update(g["params"], grads, g["velocity"], g["spread"], g["scale"], *scalars, g["ns_steps"])


class AdamW:
    """The usual one. (torch.optim spends a second on imports before the first step.)"""

    def __init__(self, groups, betas):
        self.param_groups = [dict(dict(betas=betas), **group) for group in groups]
        self.reset()

    def reset(self):
        self.steps = 0
        for group in self.param_groups:
            group["mean"] = [torch.zeros_like(p) for p in group["params"]]
            group["square"] = [torch.zeros_like(p) for p in group["params"]]

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for g in self.param_groups:
            scalars = [as_scalar(v) for v in (g["lr"], float(self.steps), *g["betas"], g["weight_decay"])]
            for p, mean, square in zip(g["params"], g["mean"], g["square"], strict=True):
                adamw_update(p, p.grad, mean, square, *scalars)


def matrix_params(model):
    """The weights Muon moves: every matrix of the blocks."""
    return [m.weight for m in model.blocks.modules() if isinstance(m, nn.Linear)]


def build_optimizers(model):
    scale = (model.config["width"] / 768) ** -0.5
    values = [block.attention.value_embed.weight for block in model.blocks if block.attention.value_embed]
    groups = [
        dict(params=[model.embed.weight], lr=EMBEDDING_LR * scale, weight_decay=EMBEDDING_DECAY),
        dict(params=values, lr=EMBEDDING_LR * scale, weight_decay=VALUE_DECAY),
        dict(params=[model.head.weight], lr=UNEMBEDDING_LR * scale, weight_decay=UNEMBEDDING_DECAY),
        dict(params=[model.residual_scale], lr=SCALAR_LR * 0.01, weight_decay=0.0),
        dict(params=[model.embed_scale], lr=SCALAR_LR, weight_decay=0.0, betas=(0.96, 0.95)),
    ]
    adamw = AdamW(groups, betas=ADAM_BETAS)
    muon = Muon(matrix_params(model), lr=MATRIX_LR, momentum=MUON_MOMENTUM, beta2=MUON_BETA2,
                ns_steps=NS_STEPS, weight_decay=WEIGHT_DECAY)
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


def follow_schedule(adamw, muon, step, used):
    for group in (*adamw.param_groups, *muon.param_groups):
        group["lr"] = group["peak_lr"] * lr_multiplier(used)
    risen = min(1.0, step / MOMENTUM_WARMUP) if MOMENTUM_WARMUP else 1.0
    for group in muon.param_groups:
        group["momentum"] = 0.85 + risen * (MUON_MOMENTUM - 0.85)
        group["weight_decay"] = WEIGHT_DECAY * max(0.0, 1 - used)


# ---------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------

def fail_fast(loss, step):
    if math.isnan(loss) or loss > 100:
        print(f"FAIL: loss is {loss} at step {step}")
        sys.exit(1)


def log(step, used, loss, epoch):
    end = "\r" if sys.stdout.isatty() and used < 1 else "\n"
    print(f"step {step:05d} ({100 * used:.1f}%) | loss: {loss:.4f} | epoch: {epoch}", end=end, flush=True)


def warm_up(model, optimizers, rows, accumulate, autocast):
    """
    Compiles and warms on made-up tokens, then puts everything back: nothing can be learnt from them, so
    this comes before the data is asked for, and no step of the training proper is slow or untimed.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_block_masks(MAX_SEQ_LEN, window_sizes(model.config))
    with torch.random.fork_rng([0] if DEVICE == "cuda" else []):
        try:
            forward = warm_steps(model, optimizers, rows, accumulate, autocast)
        except torch.OutOfMemoryError:
            raise
        except Exception as e:
            if not BLOCK_MASKS:
                raise
            print(f"FlexAttention fails here, so windows are masks: {str(e).splitlines()[0]}")
            BLOCK_MASKS.clear()
            torch._dynamo.reset()
            forward = warm_steps(model, optimizers, rows, accumulate, autocast)
    model.load_state_dict(before)
    for optimizer in optimizers:
        optimizer.reset()
    gc.collect()
    gc.freeze()  # collections in the loop would only find what is still in use
    gc.disable()
    return forward


def warm_steps(model, optimizers, rows, accumulate, autocast):
    tokens = torch.randint(model.config["vocab_size"], (rows, MAX_SEQ_LEN + 1)).to(DEVICE)
    forward = torch.compile(model, dynamic=False) if COMPILED else model
    for _ in range(2 if COMPILED else 1):
        backward(forward, tokens[:, :-1], tokens[:, 1:], accumulate, autocast)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
    return forward


def forward_passes(total_rows):
    """Of one step: the fewest that share its rows evenly and take at most DEVICE_BATCH_SIZE each."""
    return next(n for n in range(1, total_rows + 1) if total_rows % n == 0 and total_rows // n <= DEVICE_BATCH_SIZE)


def backward(forward, x, y, accumulate, autocast):
    with autocast:
        loss = forward(x, y)
    (loss / accumulate).backward()
    return loss.detach()


def start_reading(loss):
    """A function that waits for this loss, and not for the work queued on the device after it."""
    if DEVICE != "cuda":
        return loss.item
    copy, copied = loss.to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()

    def read():
        copied.synchronize()
        return copy.item()

    return read


def train(model, forward, optimizers, loader, accumulate, autocast):
    """Steps until the budget is used; returns their number. The host reads a loss while the next step runs."""
    step, read, value = 0, None, math.nan
    while (used := progress(step)) < 1:
        for _ in range(accumulate):
            x, y, epoch = next(loader)
            loss = backward(forward, x, y, accumulate, autocast)
        read_last, read = read, start_reading(loss)
        if GRAD_CLIP:
            nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        follow_schedule(*optimizers, step, used)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        if read_last:
            fail_fast(value := read_last(), step - 1)
            if step % LOG_EVERY == 0:
                log(step, used, value, epoch)
        step += 1
    fail_fast(value := read(), step - 1)
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
    if COMPILED:
        check_compiler()
    autocast = torch.autocast("cuda", dtype=DTYPE) if BF16 else nullcontext()

    tokenizer = Tokenizer.from_directory()
    model = build_model(model_config(tokenizer.get_vocab_size())).to(DEVICE)
    optimizers = build_optimizers(model)
    total_rows = max(1, TOTAL_BATCH_SIZE // MAX_SEQ_LEN)
    accumulate = forward_passes(total_rows)
    rows = total_rows // accumulate
    forward = warm_up(model, optimizers, rows, accumulate, autocast)
    attention = f"{FLASH.__module__}" if FLASH else "FlexAttention" if BLOCK_MASKS else "PyTorch"
    print(f"device: {DEVICE} | activations: {DTYPE} | attention: {attention} | rows: {accumulate} x {rows}")

    loader = make_dataloader(tokenizer, rows, MAX_SEQ_LEN, "train")
    released = time.perf_counter()
    steps = train(model, forward, optimizers, loader, accumulate, autocast)
    training_seconds = time.perf_counter() - released

    with autocast:
        val_bpb = evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)

    tokens = steps * accumulate * rows * MAX_SEQ_LEN
    mfu = model.flops_per_token() * tokens / training_seconds / (peak_flops() or math.inf)
    print_summary({
        "val_bpb": f"{val_bpb:.6f}",
        "training_seconds": f"{training_seconds:.1f}",
        "total_seconds": f"{time.perf_counter() - started:.1f}",
        "peak_vram_mb": f"{torch.cuda.max_memory_allocated() / 2**20 if COMPILED else 0.0:.1f}",
        "mfu_percent": f"{100 * mfu:.2f}",
        "total_tokens_M": f"{tokens / 1e6:.1f}",
        "num_steps": steps,
        "num_params_M": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
        "depth": DEPTH,
    })


if __name__ == "__main__":
    try:
        main()
    except torch.OutOfMemoryError as e:
        sys.exit(f"FAIL: out of memory with DEVICE_BATCH_SIZE {DEVICE_BATCH_SIZE}. {str(e).splitlines()[0]}")
