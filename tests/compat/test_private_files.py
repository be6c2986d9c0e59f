"""Parts of results are exchanged in a folder that nobody else can write to."""

import os
import stat
from pathlib import Path

import mmengine.dist.dist as dist
from torch.multiprocessing import spawn

import mmconvnext  # noqa: F401


def gather(rank, folder):
    os.chdir(folder)
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    dist.torch_dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    barrier = dist.barrier

    def look():
        (place,) = Path().glob(".dist_test_*")
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        barrier()

    dist.barrier = look
    found = dist.collect_results([rank, rank + 2], 3, device="cpu")
    assert found == ([0, 1, 2] if rank == 0 else None)
    barrier()
    assert not [*Path().glob(".dist_test*")]
    dist.torch_dist.destroy_process_group()


def test_parts_are_in_a_folder_of_the_own_user_alone(tmp_path):
    spawn(gather, (str(tmp_path),), nprocs=2)
