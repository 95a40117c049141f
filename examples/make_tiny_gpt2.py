"""Makes examples/tiny-gpt2.pt: the training checkpoint of a small GPT-2-like transformer.

    python examples/make_tiny_gpt2.py [OUT]

Needs torch (made with 2.15). The model has GPT-2's names and its tied `wte`/`lm_head`; it is
trained for a few steps on a fixed text with AdamW and a learning-rate schedule, and saved by
`torch.save` the way training scripts do: the model, the optimizer, the schedule, the epoch, the
configuration and the state of the random number generators in one dict.
"""

import math
import pathlib
import random
import sys

import torch
from torch import nn
from torch.nn import functional as F

CONFIG = {
    "vocab_size": 64,
    "n_positions": 32,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "tie_word_embeddings": True,
}
TEXT = (
    "A weighbridge weighs what comes in and what goes out. "
    "It opens no crate, and it keeps a ticket of every load. "
)
STEPS = 20


class Linear(nn.Module):
    """GPT-2's Conv1D: a linear layer whose weight lies [in, out]."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out) * 0.02)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return x @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        n = c["n_embd"]
        self.n_head = c["n_head"]
        self.c_attn = Linear(n, 3 * n)
        self.c_proj = Linear(n, n)

    def forward(self, x):
        b, t, n = x.shape
        q, k, v = (
            y.view(b, t, self.n_head, n // self.n_head).transpose(1, 2)
            for y in self.c_attn(x).split(n, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(b, t, n))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        n = c["n_embd"]
        self.c_fc = Linear(n, 4 * n)
        self.c_proj = Linear(4 * n, n)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        n, eps = c["n_embd"], c["layer_norm_epsilon"]
        self.ln_1 = nn.LayerNorm(n, eps=eps)
        self.attn = Attention(c)
        self.ln_2 = nn.LayerNorm(n, eps=eps)
        self.mlp = Mlp(c)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TinyGpt2(nn.Module):
    def __init__(self, c):
        super().__init__()
        n = c["n_embd"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(c["vocab_size"], n),
                "wpe": nn.Embedding(c["n_positions"], n),
                "h": nn.ModuleList(Block(c) for _ in range(c["n_layer"])),
                "ln_f": nn.LayerNorm(n, eps=c["layer_norm_epsilon"]),
            }
        )
        for name in ("wte", "wpe"):
            nn.init.normal_(self.transformer[name].weight, std=0.02)
        self.lm_head = nn.Linear(n, c["vocab_size"], bias=False)
        # One tensor under two names, as in GPT-2.
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids):
        t = self.transformer
        x = t["wte"](ids) + t["wpe"](torch.arange(ids.shape[1]))
        for block in t["h"]:
            x = block(x)
        return self.lm_head(t["ln_f"](x))


def schedule(step):
    """Linear warm-up over four steps, then a cosine."""
    if step < 4:
        return (step + 1) / 4
    return 0.5 * (1 + math.cos(math.pi * (step - 4) / STEPS))


def groups(model):
    """The two usual groups: weight decay for matrices, none for biases and norms."""
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]


def train():
    torch.manual_seed(20)
    random.seed(20)
    torch.set_num_threads(1)
    model = TinyGpt2(CONFIG)
    optimizer = torch.optim.AdamW(groups(model), lr=3e-3, betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    letters = sorted(set(TEXT))
    ids = torch.tensor([letters.index(c) for c in TEXT * 3])
    losses = []
    for _ in range(STEPS):
        at = torch.randint(0, len(ids) - 32, (8,))
        batch = torch.stack([ids[i : i + 33] for i in at])
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 1,
        "global_step": STEPS,
        "loss": losses,
        "config": CONFIG,
        "rng": {"torch": torch.get_rng_state(), "python": random.getstate()},
    }


def main():
    default = pathlib.Path(__file__).with_name("tiny-gpt2.pt")
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    checkpoint = train()
    torch.save(checkpoint, out)
    first, last = checkpoint["loss"][0], checkpoint["loss"][-1]
    print(f"{out.name}: {out.stat().st_size} bytes, loss {first:.3f} -> {last:.3f}")


if __name__ == "__main__":
    main()
