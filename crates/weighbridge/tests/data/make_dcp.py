"""Makes `dcp_ranks/`, a real checkpoint that four ranks saved together, and prints its values.

Run with torch 2.2 or later: `python make_dcp.py OUTDIR`. The values are the element numbers of each
tensor, so that a test can tell every place of every box.
"""

import os
import shutil
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def numbers(*shape, dtype=torch.float32):
    n = 1
    for d in shape:
        n *= d
    return torch.arange(n, dtype=torch.float32).reshape(shape).to(dtype)


def save(rank, out):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29517", RANK=str(rank), WORLD_SIZE="4")
    dist.init_process_group("gloo", rank=rank, world_size=4)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    state = {
        # Cut along both dimensions, unevenly.
        "grid": distribute_tensor(numbers(5, 3), mesh, [Shard(0), Shard(1)]),
        "model": {
            "rows.weight": distribute_tensor(
                numbers(3, 4, dtype=torch.bfloat16), mesh, [Shard(0), Replicate()]
            ),
            "same": distribute_tensor(numbers(3), mesh, [Replicate(), Replicate()]),
        },
        "list": [numbers(2), {"step": torch.tensor(7)}],
        "state": {"epoch": 3, "pair": (1, numbers(2, 2))},
    }
    dcp.save(state, checkpoint_id=out)
    dist.destroy_process_group()


if __name__ == "__main__":
    out = os.path.join(sys.argv[1], "dcp_ranks")
    shutil.rmtree(out, ignore_errors=True)
    mp.spawn(save, (out,), nprocs=4)
