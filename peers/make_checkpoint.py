"""Makes a large checkpoint for the benchmarks: about 200 tensors, none of them tied.

    python peers/make_checkpoint.py OUT GIGABYTES

Half of the bytes are bf16, half f32, in the shapes of a transformer's layers. The values are
random, so that no file system can compress or share them.
"""

import collections
import os
import sys

import torch

LAYERS = 28


def fill(shape, dtype):
    """Random values; bf16 by drawing its bits, which is much quicker than casting."""
    if dtype is torch.bfloat16:
        return torch.randint(-(2**15), 2**15, shape, dtype=torch.int16).view(torch.bfloat16)
    return torch.rand(shape, dtype=dtype)


def main():
    out, gigabytes = sys.argv[1], float(sys.argv[2])
    torch.manual_seed(2)
    torch.set_num_threads(1)
    # One layer of width n: 12 n² matrix values and some vectors, bf16 and f32 alternating.
    per_layer = gigabytes * 1e9 / LAYERS
    n = max(16, int((per_layer / (12 * 3)) ** 0.5) // 16 * 16)
    state = collections.OrderedDict()
    for layer in range(LAYERS):
        dtype = torch.bfloat16 if layer % 2 else torch.float32
        at = f"model.layers.{layer}"
        state[f"{at}.attn.qkv.weight"] = fill((3 * n, n), dtype)
        state[f"{at}.attn.out.weight"] = fill((n, n), dtype)
        state[f"{at}.mlp.up.weight"] = fill((4 * n, n), dtype)
        state[f"{at}.mlp.down.weight"] = fill((n, 4 * n), dtype)
        state[f"{at}.norm.weight"] = fill((n,), dtype)
        state[f"{at}.norm.bias"] = fill((n,), dtype)
        state[f"{at}.mlp.up.bias"] = fill((4 * n,), dtype)
    torch.save(state, out + ".part")
    os.replace(out + ".part", out)
    print(f"{out}: {len(state)} tensors, {os.path.getsize(out)} bytes")


if __name__ == "__main__":
    main()
