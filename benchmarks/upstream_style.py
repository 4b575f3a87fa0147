"""A train.py in the manner of karpathy/autoresearch, in our own words: it trains at import.

Owns: that manner (no functions to call, module-level constants, its own clock, the summary block)
and upstream's model and optimizer as documented. It shows that such a script runs under the harness
without change, and it is the rival of our train.py in `throughput.py` and `gpu.py`.
Does not own: data, metric and rows scored (prepare.py), or any number that counts (the scorer).

Design: github.com/karpathy/autoresearch at 228791f; Muon with Polar Express (arXiv 2505.16932),
NorMuon (2510.05491) and cautious decay (2510.12402). Usage: copy it over train.py.
"""

import gc
import importlib
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from prepare import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb, make_dataloader

# --- Constants, edited in place -----------------------------------------------------------------

DEPTH = 8  # layers
ASPECT_RATIO = 64  # width = DEPTH * ASPECT_RATIO, rounded up to whole heads
HEAD_DIM = 128  # channels of a head
WINDOW_PATTERN = "SSSL"  # layers in turn: S sees half the context, L all of it; the last is L
TOTAL_BATCH_SIZE = 2**19  # tokens of an optimizer step
DEVICE_BATCH_SIZE = 128  # rows of a forward pass
EMBEDDING_LR = 0.6  # AdamW, token and value embeddings, at width 768
UNEMBEDDING_LR = 0.004  # AdamW, the head, at width 768
MATRIX_LR = 0.04  # Muon
SCALAR_LR = 0.5  # AdamW, the scalars of the layers
WEIGHT_DECAY = 0.2  # Muon, cautious, falls to 0
ADAM_BETAS = (0.8, 0.95)  # AdamW
WARMUP_RATIO = 0.0  # share of the budget
WARMDOWN_RATIO = 0.5  # share of the budget
FINAL_LR_FRAC = 0.0  # of the peak
COMPILE = torch.cuda.is_available()  # on a CPU the compiler costs more than a short budget gains

UNTIMED_STEPS = 11  # steps 0 to 10: compilation and warm-up
GATE_CHANNELS = 32  # of the stream, read by the gate of the value embeddings
SOFTCAP = 15.0
NS_STEPS = 5
H100_FLOPS = 989.5e12  # dense bf16

# --- Attention: FlashAttention where installed, else FlexAttention, else PyTorch's --------------

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32

flash = flex = None
block_masks = {}  # window -> the blocks FlexAttention may skip
if DEVICE.type == "cuda":
    hopper = torch.cuda.get_device_capability() == (9, 0)
    for package in ("flash_attn_interface", "flash_attn") if hopper else ("flash_attn",):
        try:
            flash = flash or importlib.import_module(package).flash_attn_func
        except (ImportError, OSError, AttributeError):
            continue
    if not flash:
        from torch.nn.attention.flex_attention import create_block_mask
        from torch.nn.attention.flex_attention import flex_attention as flex


def within(window):
    return lambda b, h, i, j: (i >= j) & (i - j <= window)


def attend(q, k, v, window):
    """Causal attention over (B, T, heads, channels), `window` tokens back."""
    length = q.size(1)
    if flash:
        y = flash(q, k, v, causal=True, window_size=(window, 0))
        return y[0] if isinstance(y, tuple) else y
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    if window >= length:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    elif flex:
        y = flex(q, k, v, block_mask=block_masks[window])
    else:
        place = torch.arange(length, device=q.device)
        back = place[:, None] - place
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(back >= 0) & (back <= window))
    return y.transpose(1, 2)


# --- Model --------------------------------------------------------------------------------------


@dataclass
class Config:
    """Everything the model is built from."""

    vocab_size: int
    context: int
    depth: int
    width: int
    heads: int
    windows: tuple

    def has_values(self, layer):
        """Whether a layer has value embeddings: every other one, the last among them."""
        return (self.depth - 1 - layer) % 2 == 0


def norm(x):
    return F.rms_norm(x, (x.size(-1),)).to(x.dtype)  # newer autocasts widen it


def rotate(x, cos, sin):
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos + right * sin, right * cos - left * sin), dim=-1)


class Attention(nn.Module):
    """Rotary positions, normed queries and keys, gated value embeddings."""

    def __init__(self, config, layer):
        super().__init__()
        self.heads, self.window = config.heads, config.windows[layer]
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.k = nn.Linear(config.width, config.width, bias=False)
        self.v = nn.Linear(config.width, config.width, bias=False)
        self.proj = nn.Linear(config.width, config.width, bias=False)
        self.gate = None
        if config.has_values(layer):
            self.gate = nn.Linear(min(GATE_CHANNELS, config.width), config.heads, bias=False)

    def forward(self, x, values, cos, sin):
        """(B, T, width) to (B, T, width)."""
        split = (*x.shape[:2], self.heads, -1)
        q, k, v = self.q(x).view(split), self.k(x).view(split), self.v(x).view(split)
        if self.gate is not None:
            opened = 2 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))
            v = v + opened.unsqueeze(-1) * values.view(split)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        return self.proj(attend(q.to(v.dtype), k.to(v.dtype), v, self.window).reshape(x.shape))


class Block(nn.Module):
    """Attention, then an MLP with a squared ReLU."""

    def __init__(self, config, layer):
        super().__init__()
        self.attention = Attention(config, layer)
        self.up = nn.Linear(config.width, 4 * config.width, bias=False)
        self.down = nn.Linear(4 * config.width, config.width, bias=False)

    def forward(self, x, values, cos, sin):
        """(B, T, width) to (B, T, width)."""
        x = x + self.attention(norm(x), values, cos, sin)
        return x + self.down(F.relu(self.up(norm(x))).square())


class GPT(nn.Module):
    """Token embedding, blocks, untied head, softcap."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        with_values = [str(layer) for layer in range(config.depth) if config.has_values(layer)]
        self.values = nn.ModuleDict(
            {layer: nn.Embedding(config.vocab_size, config.width) for layer in with_values}
        )
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.stream_scale = nn.Parameter(torch.ones(config.depth))
        self.first_scale = nn.Parameter(torch.zeros(config.depth))

    @torch.no_grad()
    def init_weights(self):
        """Fill the weights, which lie on their device and hold nothing yet."""
        bound = (3 / self.config.width) ** 0.5
        nn.init.normal_(self.embed.weight)
        nn.init.normal_(self.head.weight, std=0.001)
        self.stream_scale.fill_(1.0)
        self.first_scale.fill_(0.1)
        for table in self.values.values():
            nn.init.uniform_(table.weight, -bound, bound)
        for block in self.blocks:
            attention = block.attention
            for linear in (attention.q, attention.k, attention.v, block.up):
                nn.init.uniform_(linear.weight, -bound, bound)
            for linear in (attention.proj, block.down, attention.gate):
                if linear is not None:
                    nn.init.zeros_(linear.weight)
        self.make_rotary()
        for table in (self.embed, *self.values.values()):
            table.to(dtype=DTYPE)

    def make_rotary(self):
        """Cosines and sines, (1, T, 1, channels / 2)."""
        channels = self.config.width // self.config.heads
        steps = torch.arange(0, channels, 2, device=DEVICE, dtype=torch.float32)
        places = torch.arange(self.config.context, device=DEVICE, dtype=torch.float32)
        angles = torch.outer(places, 10000.0 ** -(steps / channels))[None, :, None, :]
        self.register_buffer("cos", angles.cos().to(DTYPE), persistent=False)
        self.register_buffer("sin", angles.sin().to(DTYPE), persistent=False)

    def forward(self, idx, targets=None, reduction="mean"):
        """Logits (B, T, V), or the loss where targets are given."""
        cos, sin = self.cos[:, : idx.size(1)], self.sin[:, : idx.size(1)]
        x = first = norm(self.embed(idx))
        for layer, block in enumerate(self.blocks):
            values = self.values[str(layer)](idx) if str(layer) in self.values else None
            x = self.stream_scale[layer] * x + self.first_scale[layer] * first
            x = block(x, values, cos, sin)
        logits = SOFTCAP * torch.tanh(self.head(norm(x)).float() / SOFTCAP)
        if targets is None:
            return logits
        flat = logits.view(-1, logits.size(-1))
        return F.cross_entropy(flat, targets.reshape(-1), ignore_index=-1, reduction=reduction)


# --- Optimizer ----------------------------------------------------------------------------------

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def adamw_update(p, grad, mean, square, step, lr, beta1, beta2, eps, decay):
    p.mul_(1 - lr * decay)
    mean.lerp_(grad, 1 - beta1)
    square.lerp_(grad.square(), 1 - beta2)
    spread = (square / (1 - beta2**step)).sqrt() + eps
    p.add_(mean / spread * (-lr / (1 - beta1**step)))


def polar(x, steps):
    """Singular values towards 1; the product is taken over the short side."""
    tall = x.size(-2) > x.size(-1)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS[:steps]:
        inner = x.mT @ x if tall else x @ x.mT
        poly = b * inner + c * (inner @ inner)
        x = a * x + (x @ poly if tall else poly @ x)
    return x


def muon_update(grads, params, velocity, spread, momentum, lr, decay, beta2, steps, along):
    velocity.lerp_(grads, 1 - momentum)
    update = polar(grads.lerp_(velocity, momentum).to(DTYPE), steps)
    mean = update.float().square().mean(dim=along, keepdim=True)
    count = update.size(along)
    before = (mean.sum(dim=(-2, -1), keepdim=True) * count).sqrt()
    spread.lerp_(mean.to(spread.dtype), 1 - beta2)
    scale = spread.clamp_min(1e-10).rsqrt()
    after = (mean * count * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    update = update * (scale * (before / after.clamp_min(1e-10))).to(update.dtype)
    agrees = (update * params) >= 0
    params.sub_(lr * update + lr * decay * params * agrees)


if COMPILE:
    adamw_update = torch.compile(adamw_update, dynamic=False, fullgraph=True)
    muon_update = torch.compile(muon_update, dynamic=False, fullgraph=True)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for matrices stacked by shape, AdamW for the rest, one group after the other."""

    def __init__(self, groups):
        super().__init__(groups, defaults={})
        for group in self.param_groups:
            group["first_lr"] = group["lr"]
        names = ["step", "lr", "beta1", "beta2", "eps", "decay", "momentum"]
        self.scalar = {name: torch.tensor(0.0) for name in names}  # tensors: no recompiling

    def scalars(self, **values):
        """The values as 0-D tensors on the CPU."""
        return [self.scalar[name].fill_(value) for name, value in values.items()]

    def step_adamw(self, group):
        """One update of a group, parameter by parameter."""
        for p in group["params"]:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
            beta1, beta2 = group["betas"]
            numbers = self.scalars(
                step=state["step"], lr=group["lr"], beta1=beta1, beta2=beta2, eps=1e-10, decay=0.0
            )
            adamw_update(p, p.grad, state["mean"], state["square"], *numbers)

    def step_muon(self, group):
        """One update of matrices of one shape, all at once."""
        params = group["params"]
        rows, columns = params[0].shape
        along = -1 if rows >= columns else -2
        stacked = torch.stack(params)
        state = self.state[params[0]]
        if not state:
            state["velocity"] = torch.zeros_like(stacked)
            state["spread"] = torch.zeros_like(stacked.mean(dim=along, keepdim=True))
        numbers = self.scalars(
            momentum=group["momentum"],
            lr=group["lr"] * max(1.0, rows / columns) ** 0.5,
            decay=group["decay"],
            beta2=0.95,
        )
        grads = torch.stack([p.grad for p in params])
        muon_update(grads, stacked, state["velocity"], state["spread"], *numbers, NS_STEPS, along)
        torch._foreach_copy_(params, list(stacked.unbind()))

    @torch.no_grad()
    def step(self):
        """All groups."""
        for group in self.param_groups:
            (self.step_muon if group["kind"] == "muon" else self.step_adamw)(group)


# --- Setup --------------------------------------------------------------------------------------

started = time.time()
torch.manual_seed(42)
torch.set_float32_matmul_precision("high")
bf16 = torch.autocast("cuda", dtype=DTYPE) if DEVICE.type == "cuda" else nullcontext()
synchronize = torch.cuda.synchronize if DEVICE.type == "cuda" else lambda: None

tokenizer = Tokenizer.from_directory()
heads = math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM)
short_or_long = {"S": MAX_SEQ_LEN // 2, "L": MAX_SEQ_LEN}
pattern = [WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] for layer in range(DEPTH - 1)] + ["L"]
config = Config(
    vocab_size=tokenizer.get_vocab_size(),
    context=MAX_SEQ_LEN,
    depth=DEPTH,
    width=heads * HEAD_DIM,
    heads=heads,
    windows=tuple(short_or_long[letter] for letter in pattern),
)
print(f"model: {asdict(config)}")

with torch.device("meta"):
    model = GPT(config)
model.to_empty(device=DEVICE)
model.init_weights()
if flex:
    for seen in {window for window in config.windows if window < MAX_SEQ_LEN}:
        visible = within(seen)
        length = MAX_SEQ_LEN
        block_masks[seen] = create_block_mask(visible, None, None, length, length, device=DEVICE)

matrices = list(model.blocks.parameters())
num_params = sum(p.numel() for p in model.parameters())
multiplying = sum(p.numel() for p in (*matrices, model.head.weight))
flops_per_token = 6 * multiplying + 12 * config.width * sum(config.windows)

lr_scale = (config.width / 768) ** -0.5
groups = [
    {"kind": "adamw", "params": params, "lr": lr, "betas": betas}
    for params, lr, betas in (
        ([model.head.weight], UNEMBEDDING_LR * lr_scale, ADAM_BETAS),
        ([model.embed.weight], EMBEDDING_LR * lr_scale, ADAM_BETAS),
        (list(model.values.parameters()), EMBEDDING_LR * lr_scale, ADAM_BETAS),
        ([model.stream_scale], SCALAR_LR * 0.01, ADAM_BETAS),
        ([model.first_scale], SCALAR_LR, (0.96, 0.95)),
    )
]
for shape in sorted({p.shape for p in matrices}):
    same = [p for p in matrices if p.shape == shape]
    groups.append(
        {"kind": "muon", "params": same, "lr": MATRIX_LR, "momentum": 0.85, "decay": WEIGHT_DECAY}
    )
optimizer = MuonAdamW(groups)

if COMPILE:
    model = torch.compile(model, dynamic=False)

tokens_per_pass = DEVICE_BATCH_SIZE * MAX_SEQ_LEN
assert TOTAL_BATCH_SIZE % tokens_per_pass == 0, "TOTAL_BATCH_SIZE must be whole passes"
passes = TOTAL_BATCH_SIZE // tokens_per_pass
loader = make_dataloader(tokenizer, DEVICE_BATCH_SIZE, MAX_SEQ_LEN, "train")
x, y, epoch = next(loader)


def lr_multiplier(progress):
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress < 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRAC


# --- Training -----------------------------------------------------------------------------------

step, total_training_time, smooth = 0, 0.0, 0.0
while True:
    synchronize()
    began = time.time()
    for _ in range(passes):
        with bf16:
            loss = model(x, y)
        (loss / passes).backward()
        x, y, epoch = next(loader)
    progress = min(1.0, total_training_time / TIME_BUDGET)
    for group in optimizer.param_groups:
        group["lr"] = group["first_lr"] * lr_multiplier(progress)
        if group["kind"] == "muon":
            group["momentum"] = 0.85 + 0.10 * min(1.0, step / 300)
            group["decay"] = WEIGHT_DECAY * (1 - progress)
    optimizer.step()
    model.zero_grad(set_to_none=True)
    last_loss = loss.item()
    if math.isnan(last_loss) or last_loss > 100:
        print("FAIL")
        sys.exit(1)
    synchronize()
    elapsed = time.time() - began
    if step >= UNTIMED_STEPS:
        total_training_time += elapsed
    smooth = 0.9 * smooth + 0.1 * last_loss
    debiased = smooth / (1 - 0.9 ** (step + 1))
    print(
        f"\rstep {step:05d} ({100 * progress:.1f}%) | loss: {debiased:.6f} "
        f"| dt: {1000 * elapsed:.0f}ms | epoch: {epoch} ",
        end="",
        flush=True,
    )
    if step == 0:
        gc.collect()
        gc.freeze()
        gc.disable()
    step += 1
    if step >= UNTIMED_STEPS and total_training_time >= TIME_BUDGET:
        break
print()

model.eval()
with bf16:
    val_bpb = evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)

timed_tokens = (step - UNTIMED_STEPS) * TOTAL_BATCH_SIZE
mfu = flops_per_token * timed_tokens / max(total_training_time, 1e-9) / H100_FLOPS
peak_memory = torch.cuda.max_memory_allocated() / 2**20 if DEVICE.type == "cuda" else 0.0
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"training_seconds: {total_training_time:.1f}")
print(f"total_seconds:    {time.time() - started:.1f}")
print(f"peak_vram_mb:     {peak_memory:.1f}")
print(f"mfu_percent:      {100 * mfu:.2f}")
print(f"total_tokens_M:   {step * TOTAL_BATCH_SIZE / 1e6:.1f}")
print(f"num_steps:        {step}")
print(f"num_params_M:     {num_params / 1e6:.1f}")
print(f"depth:            {DEPTH}")
