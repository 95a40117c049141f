"""What people run today to convert a checkpoint, for the benchmarks.

    python peers/convert.py load|mmap[-sync] IN OUT

Prints `work SECONDS`: the time without the imports.
"""

import os
import sys
import time

import torch
from safetensors.torch import save_file


def main():
    mode, source, target = sys.argv[1:]
    began = time.perf_counter()
    state = torch.load(source, weights_only=True, mmap=mode.startswith("mmap"))
    save_file(state, target)
    if mode.endswith("-sync"):
        with open(target, "rb+") as f:
            os.fsync(f.fileno())
    print("work", time.perf_counter() - began)


if __name__ == "__main__":
    main()
