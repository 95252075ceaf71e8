"""Environments that are spread over the processes of a run, and how these share the work."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_pgx.core.checks import check_choice, check_counts
from sb3_pgx.environments.gathered import GatheredVecEnv
from sb3_pgx.parallel.processes import Processes, joined_processes
from sb3_pgx.parallel.reductions import MeanOfTheFirst, MeanOverProcesses
from sb3_pgx.parallel.same import check_same

Sharing = Literal["gather", "gather_rollouts", "all_reduce"]


class ShareOfEnvironments(VecEnvWrapper):
    """
    The environments of one process, which acts in them.

    :param own: the environments
    :param processes: of the run
    """

    connections = ("team", "reduction")  # attributes that belong to the process, and not to the state of a run

    def __init__(self, own: VecEnv, processes: Processes):
        super().__init__(own)
        self.team = processes

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the first environment of all processes with ``seed``, and the others with the next numbers."""
        first = self.team.rows(self.num_envs * self.team.size).start
        return self.venv.seed(None if seed is None else seed + first)

    def reset(self):  # type: ignore[no-untyped-def]
        return self.venv.reset()

    def step_wait(self):  # type: ignore[no-untyped-def]
        return self.venv.step_wait()


class ActingShare(ShareOfEnvironments):
    """The environments of one process that acts in them and sends its rollouts to the first one, which learns."""


class LearningShare(ShareOfEnvironments):
    """
    The environments of one process that acts in them, and learns together with the others.

    :param own: the environments
    :param processes: of the run
    :param max_dropped: see :func:`spread`
    """

    def __init__(self, own: VecEnv, processes: Processes, max_dropped: int):
        super().__init__(own, processes)
        self.reduction = MeanOfTheFirst(processes, max_dropped) if max_dropped else MeanOverProcesses(processes)


def spread(make: Callable[[range], VecEnv], n_envs: int, parallel: Sharing, max_dropped: int = 0) -> VecEnv:
    """
    Make environments that are spread over the processes that ``torchrun`` has started. Without ``torchrun``, this process
    makes all of them, and the run is an ordinary one.

    ``"gather"``: the first process acts and learns, the others step their environments. It has a ``VecEnv`` of all N, so
    wrappers such as ``VecNormalize``, and everything else, work as in one process. Given the same seeds, the result is that of
    one process bit for bit. Right for costly environments and cheap updates.

    ``"gather_rollouts"``: every process acts in its own environments. The first one receives the rollouts, in a few messages
    per process and rollout, and learns. Wrappers wrap the environments of one process, so ``VecNormalize`` is refused. The
    result is that of one process, but for rounding in the actions. Right if acting or the messages of ``"gather"`` take long.

    ``"all_reduce"``: every process acts and learns, from its own environments, and each gradient is averaged over all.
    ``batch_size`` and all statistics are those of the whole. Right for costly updates, such as of large networks.

    :param make: makes the environments of given numbers, such as ``lambda rows: SubprocVecEnv([maker(i) for i in rows])``
    :param n_envs: N, number of environments of all processes together
    :param parallel: how the processes share the work
    :param max_dropped: D of distributed PPO, for ``"all_reduce"``: a gradient step waits for all but D of the processes, and
        drops the gradients of those that are late (Heess et al., 2017). Larger values wait less for slow processes, learn from
        fewer rows, and make runs differ. Typical: 0
    :raises ValueError: the number of processes does not divide ``n_envs``, or the processes differ in versions, spaces or N
    """
    check_choice(get_args(Sharing), parallel=parallel)
    check_counts(n_envs=n_envs)
    check_counts(0, max_dropped=max_dropped)
    if max_dropped and parallel != "all_reduce":
        raise ValueError(f'max_dropped={max_dropped} drops gradients, and parallel="{parallel}" has but one: leave it out')
    processes = joined_processes()
    if processes is None:
        return make(range(n_envs))
    if n_envs % processes.size:
        raise ValueError(
            f"n_envs={n_envs} environments cannot be shared among {processes.size} processes equally: choose a multiple of "
            f"{processes.size}, or another --nproc-per-node"
        )
    if max_dropped >= processes.size:
        raise ValueError(f"max_dropped={max_dropped} must be below the number of processes, {processes.size}")
    check_same(processes, {"n_envs": n_envs, "parallel": parallel, "max_dropped": max_dropped})
    own = make(processes.rows(n_envs))
    spaces = {"observation_space": own.observation_space, "action_space": own.action_space, "share": own.num_envs}
    check_same(processes, spaces)
    if parallel == "gather":
        return GatheredVecEnv(own, processes)
    return ActingShare(own, processes) if parallel == "gather_rollouts" else LearningShare(own, processes, max_dropped)
