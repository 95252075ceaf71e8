"""Environments that are gathered from several processes, for which threads stand, so that nothing has to be started."""

import queue
import threading

import numpy as np

from sb3_pgx.environments.gathered import GatheredVecEnv
from sb3_pgx.parallel.processes import Processes


class Thread(Processes):
    """
    Stands for a process. The first one does all that needs an answer of all.

    :param queues: by sender and receiver
    """

    def __init__(self, rank, size, queues):
        super().__init__(rank, size)
        self.queues = queues

    def exchange(self, value):
        return [value] * self.size

    def send(self, peer, frame):
        self.queues[self.rank, peer].put(frame.copy())

    def receive(self, peer, frame):
        frame[:] = self.queues[peer, self.rank].get(timeout=None if self.rank else 60)


def gathered(make, n_envs, size):
    """
    Return environments of which each thread steps its share.

    :param make: makes the environments of a range of numbers
    :param n_envs: number of all of them
    :param size: number of threads; 1: this process makes all of them
    """
    if size == 1:
        return make(range(n_envs))
    queues = {(i, j): queue.Queue() for i in range(size) for j in range(size)}
    first, *others = (
        GatheredVecEnv(make(each.rows(n_envs)), each) for each in [Thread(rank, size, queues) for rank in range(size)]
    )
    for env in others:
        threading.Thread(target=env.serve, daemon=True).start()
    first.team.learns_from = first
    return first


def ended(*envs):
    """End the threads of environments."""
    for env in envs:
        if isinstance(env.unwrapped, GatheredVecEnv):
            env.unwrapped.dismiss(None)


def stepped(env, steps, seed):
    """Step with random actions, and return all observations and rewards."""
    generator = np.random.default_rng(seed)
    returned = []
    for _ in range(steps):
        observations, rewards, dones, _ = env.step(
            np.array([_action(env.action_space, generator) for _ in range(env.num_envs)])
        )
        returned += [observations, rewards, dones]
    return returned


def _action(space, generator):
    return generator.integers(space.n) if hasattr(space, "n") else generator.uniform(space.low, space.high)
