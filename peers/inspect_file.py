"""What people run today to see what is in a file, for the benchmarks.

    python peers/inspect_file.py torch|safetensors PATH

Prints `work SECONDS` (the time without the imports), then names, dtypes and shapes.
"""

import sys
import time


def with_torch(path):
    import torch

    began = time.perf_counter()
    state = torch.load(path, weights_only=True, mmap=True)
    rows = [(name, t.dtype, tuple(t.shape)) for name, t in state.items()]
    return began, rows


def with_safetensors(path):
    from safetensors import safe_open

    began = time.perf_counter()
    with safe_open(path, framework="numpy") as f:
        slices = ((name, f.get_slice(name)) for name in f.keys())
        rows = [(name, s.get_dtype(), s.get_shape()) for name, s in slices]
    return began, rows


def main():
    kind, path = sys.argv[1:]
    began, rows = {"torch": with_torch, "safetensors": with_safetensors}[kind](path)
    print("work", time.perf_counter() - began)
    for row in rows:
        print(*row)


if __name__ == "__main__":
    main()
