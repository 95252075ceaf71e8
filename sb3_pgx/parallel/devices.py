"""Checks that models of several processes are on devices between which torch.distributed can average gradients."""

from collections.abc import Sequence
from typing import NamedTuple

import torch as th

from sb3_pgx.parallel.processes import Processes


class Placement(NamedTuple):
    """Where the model of one process is."""

    kind: str  # of the device, such as "cuda"
    gpu: str | None = None  # identity of the GPU, the same in all processes that use it


def placement(device: th.device) -> Placement:
    """Return where a model on this device is."""
    if device.type != "cuda":
        return Placement(device.type)
    index = th.cuda.current_device() if device.index is None else device.index
    return Placement("cuda", str(th.cuda.get_device_properties(index).uuid))


def check_devices(processes: Processes, device: th.device) -> None:
    """
    Check that the processes can average gradients; all of them must call this.

    :param processes: of the run
    :param device: of this process's model
    :raises ValueError: they cannot; the same error in all processes
    """
    check_placements(processes.exchange(placement(device)), th.distributed.is_nccl_available())


def check_placements(placements: Sequence[Placement], has_nccl: bool) -> None:
    """
    Check that processes with models in these places can average gradients: by gloo on the CPU, by NCCL on CUDA.

    :param placements: by rank
    :param has_nccl: whether this build of torch has NCCL
    :raises ValueError: they cannot
    """
    kind = placements[0].kind
    does = 'parallel="all_reduce" averages gradients'
    for rank, (other, gpu) in enumerate(placements):
        if other != kind:
            raise ValueError(f"{does}, but the model is on {kind} in process 0 and on {other} in process {rank}: give device")
        first = placements.index(Placement(other, gpu))
        if gpu is not None and first < rank:
            raise ValueError(
                f"{does}, and NCCL needs a GPU per process, but processes {first} and {rank} have the same one: start as many "
                'processes per machine as it has GPUs, with device="cuda" and no number, or use device="cpu"'
            )
    if kind not in ("cpu", "cuda"):
        raise ValueError(f'{does} on the CPU or on CUDA, and not on {kind}: use device="cpu" or parallel="gather"')
    if kind == "cuda" and not has_nccl:
        raise ValueError(f'{does} on CUDA by NCCL, which this build of torch lacks: use device="cpu" or parallel="gather"')
