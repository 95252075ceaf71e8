"""Devices between which gradients can be averaged: no GPU is needed to refuse the others."""

import pytest
import torch as th

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
