"""Devices between which gradients can be averaged: no GPU is needed to refuse the others."""

import pytest
import torch as th

from sb3_pgx.parallel import joined_processes
from sb3_pgx.parallel.devices import Placement, check_placements, placement

CPU, ONE, TWO = Placement("cpu"), Placement("cuda", "gpu 1"), Placement("cuda", "gpu 2")


def test_processes_on_the_cpu_or_on_a_gpu_each_are_accepted():
    assert placement(th.device("cpu")) == CPU
    check_placements([CPU, CPU], has_nccl=False)
    check_placements([ONE, TWO], has_nccl=True)


@pytest.mark.parametrize(
    ("placements", "has_nccl", "sentence"),
    [
        ([CPU, CPU, ONE], True, "the model is on cpu in process 0 and on cuda in process 2: give device"),
        ([TWO, ONE, ONE], True, "processes 1 and 2 have the same one: start as many processes per machine as it has GPUs"),
        ([ONE, TWO], False, "NCCL, which this build of torch lacks"),
        ([Placement("mps")] * 2, True, "not on mps"),
    ],
    ids=["mixed", "shared", "no NCCL", "other"],
)
def test_devices_that_cannot_exchange_are_refused_in_one_sentence(placements, has_nccl, sentence):
    with pytest.raises(ValueError, match='parallel="all_reduce" averages gradients') as error:
        check_placements(placements, has_nccl)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("gpus", "has_nccl", "backend"), [(2, True, "cpu:gloo,cuda:nccl"), (2, False, "gloo"), (0, True, "gloo")]
)
def test_processes_exchange_what_is_on_cuda_by_nccl(gpus, has_nccl, backend, monkeypatch):
    chosen = {}
    variables = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(th.distributed, "rendezvous", lambda *_, **__: iter([(th.distributed.HashStore(), 3, 4)]))
    monkeypatch.setattr(th.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(th.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(th.cuda, "set_device", lambda index: chosen.update(gpu=index))
    monkeypatch.setattr(th.distributed, "is_nccl_available", lambda: has_nccl)
    monkeypatch.setattr(th.distributed, "init_process_group", lambda backend, **_: chosen.update(backend=backend))

    joined_processes.cache_clear()
    joined = joined_processes()
    joined_processes.cache_clear()
    assert (joined.rank, joined.size, chosen["backend"]) == (3, 4, backend)
    assert chosen.get("gpu") == (1 if "nccl" in backend else None)  # a GPU of its own, as far as there are enough
