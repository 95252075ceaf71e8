"""
Kill runs with SIGKILL at random moments, resume them, and compare the parameters at their end with uninterrupted runs.

    python -m benchmarks.resume            # writes benchmarks/results/resume/kills.json
    python -m benchmarks.resume --kills 1 --dry
    python -m benchmarks.resume --cases "PPO, CartPole-v1"     # keeps what the file says of the other cases

Each run is killed once, at a moment drawn uniformly from the time that the uninterrupted run took, by a generator with the
seed in the file; a run that has ended by then does not count. It writes a checkpoint after each of its iterations, so some of
the moments are in the middle of writing. The resumed run is another process, which finds the newest complete checkpoint, or
begins again if there is none.

Some runs have two processes before or after the kill, of which the first one learns from the environments of both
(``parallel="gather"``). One of them, drawn at random, is killed; the other one must end by itself.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from benchmarks import RESULTS
from benchmarks.provenance import provenance
from sb3_pgx import ACER, PPO, SAC, TD3
from sb3_pgx.checkpoints import CheckpointCallback, newest_checkpoint
from sb3_pgx.core.files import write_text
from sb3_pgx.environments import make_vec_env

FILE = RESULTS / "resume" / "kills.json"
SEED = 0  # of the moments
KILLS = 10  # per case
PATIENCE = 600.0  # seconds after which a run counts as stuck
_OFF_POLICY: dict[str, Any] = dict(
    learning_starts=400, batch_size=32, buffer_size=1_500, policy_kwargs=dict(net_arch=[32, 32]), seed=0, device="cpu"
)


class InParts(gym.ObservationWrapper):
    """CartPole whose observation is a dictionary."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = spaces.Dict(
            {name: spaces.Box(-np.inf, np.inf, (2,), np.float32) for name in ("cart", "pole")}
        )

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Split position and velocity of the cart from angle and velocity of the pole."""
        return {"cart": observation[:2], "pole": observation[2:]}


def _ppo(env: VecEnv) -> PPO:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    return PPO(policy, env, n_steps=64, batch_size=64, n_epochs=4, learning_rate="lin_0.001", seed=0, device="cpu")


def _acer(env: VecEnv) -> ACER:
    return ACER("MlpPolicy", env, n_steps=16, buffer_size=4000, replay_start=500, replay_ratio=2, seed=0, device="cpu")


def _sac(env: VecEnv) -> SAC:
    return SAC("MlpPolicy", env, **_OFF_POLICY, learning_rate="lin_0.001")


def _td3(env: VecEnv) -> TD3:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.3))
    return TD3("MlpPolicy", env, **_OFF_POLICY, n_steps=3, action_noise=noise)


def _environments(name: str, wrapper: Callable[[gym.Env], gym.Env] | None = None) -> Callable[[], VecEnv]:
    return lambda: make_vec_env(name, 4, seed=0, wrapper_class=wrapper, parallel="gather")


@dataclass(frozen=True)
class Case:
    """
    What is trained.

    :param model: function of the environments that makes the model
    :param environments: function that makes the environments
    :param timesteps: for ``learn``
    :param sizes: number of processes before and after the kill
    """

    model: Callable[[VecEnv], PPO | ACER | SAC | TD3]
    environments: Callable[[], VecEnv]
    timesteps: int
    sizes: tuple[int, int] = (1, 1)


def _normalized_cheetah() -> VecEnv:
    return VecNormalize(_environments("HalfCheetah-v5")())


CASES = {
    "PPO, CartPole-v1": Case(_ppo, _environments("CartPole-v1"), 3_000),
    "PPO, HalfCheetah-v5, VecNormalize": Case(_ppo, _normalized_cheetah, 2_500),
    "PPO, LunarLander-v3": Case(_ppo, _environments("LunarLander-v3"), 2_500),
    "PPO, CartPole-v1 as a dictionary": Case(_ppo, _environments("CartPole-v1", InParts), 3_000),
    "ACER, CartPole-v1": Case(_acer, _environments("CartPole-v1"), 2_000),
    "PPO, HalfCheetah-v5, VecNormalize, 1 process, then 2": Case(_ppo, _normalized_cheetah, 2_500, (1, 2)),
    "PPO, HalfCheetah-v5, VecNormalize, 2 processes, then 1": Case(_ppo, _normalized_cheetah, 2_500, (2, 1)),
    "SAC, Pendulum-v1, VecNormalize": Case(_sac, lambda: VecNormalize(_environments("Pendulum-v1")()), 2_000),
    "TD3, Pendulum-v1, noise, n-step returns": Case(_td3, _environments("Pendulum-v1"), 2_000),
}


def checksum(model: Any) -> str:
    """Return a checksum of a model's parameters and optimizer (SHA-256 of all numbers, 16 hexadecimal digits)."""
    digest = hashlib.sha256()
    for name, states in sorted(model.get_parameters().items()):
        digest.update(name.encode())
        for tensor in _tensors(states):
            digest.update(tensor.numpy(force=True).tobytes())
    return digest.hexdigest()[:16]


def _tensors(state: Any) -> list[th.Tensor]:
    if isinstance(state, dict):
        state = [state[key] for key in sorted(state, key=str)]
    if isinstance(state, list):
        return [tensor for part in state for tensor in _tensors(part)]
    return [state] if isinstance(state, th.Tensor) else []


def train(name: str, folder: str, told: Connection, variables: dict[str, str]) -> None:
    """
    Begin or resume a run, and train to its end: what one process does.

    :param name: a key of :data:`CASES`
    :param folder: of its checkpoints
    :param told: gets the steps from which it trains, and at the end the checksum
    :param variables: of the process's environment, which say how many processes there are, as those of ``torchrun`` do
    """
    os.environ.update(variables)
    th.set_num_threads(1)
    case = CASES[name]
    env = case.environments()
    model: Any = case.model(env)
    if newest_checkpoint(folder):
        model = type(model).resume(folder, env, device="cpu")
    told.send(model.num_timesteps)
    model.learn(case.timesteps, callback=CheckpointCallback(1, folder, keep=3))
    told.send(checksum(model))


class Run:
    """
    One or several processes that run :func:`train`.

    :param name: a key of :data:`CASES`
    :param folder: of its checkpoints
    :param size: number of processes
    """

    def __init__(self, name: str, folder: str, size: int):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.resume"])
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        self._told: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for rank in range(size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=train, args=(name, folder, theirs, {**common, "RANK": str(rank)}))
            process.start()
            theirs.close()
            self._told.append(ours)
            self._processes.append(process)

    def hear(self) -> Any:
        """
        Return the next thing that the processes tell; all of them tell the same.

        :raises RuntimeError: a process has ended, or is stuck, or tells something else than the first one
        """
        heard = [self._hear(rank) for rank in range(len(self._told))]
        if heard != heard[:1] * len(heard):
            raise RuntimeError(f"the processes of a run have told {heard}")
        return heard[0]

    def _hear(self, rank: int) -> Any:
        if not self._told[rank].poll(PATIENCE):
            self.kill(0)
            raise RuntimeError(f"process {rank} of a run has told nothing for {PATIENCE:.0f} seconds")
        try:
            return self._told[rank].recv()
        except EOFError:
            self._processes[rank].join()
            raise RuntimeError(f"process {rank} has ended with exit code {self._processes[rank].exitcode}") from None

    def kill(self, rank: int) -> bool:
        """
        Kill a process with SIGKILL, and return whether it was running until then.

        :raises RuntimeError: another process goes on
        """
        victim = self._processes[rank]
        if victim.pid is not None and victim.is_alive():
            os.kill(victim.pid, signal.SIGKILL)
        for other in self._processes:
            other.join(PATIENCE)
            if other.is_alive():
                other.kill()
                raise RuntimeError(f"process {rank} was killed, and another one goes on")
        return victim.exitcode == -signal.SIGKILL


def uninterrupted(name: str) -> tuple[str, float]:
    """Return the checksum at the end of a run that is not interrupted, and how many seconds it took."""
    with tempfile.TemporaryDirectory(prefix="sb3-pgx-resume-") as folder:
        run = Run(name, folder, CASES[name].sizes[0])
        run.hear()
        start = time.perf_counter()
        return run.hear(), time.perf_counter() - start


def killed(name: str, seconds: float, rank: int) -> dict[str, Any] | None:
    """
    Kill a run, and resume it.

    :param name: a key of :data:`CASES`
    :param seconds: after the run began to train
    :param rank: number of the process that is killed
    :return: from which steps it went on, and the checksum at the end; ``None`` if it had ended by then
    """
    with tempfile.TemporaryDirectory(prefix="sb3-pgx-resume-") as folder:
        before, after = CASES[name].sizes
        first = Run(name, folder, before)
        first.hear()
        time.sleep(seconds)
        if not first.kill(rank):
            return None
        second = Run(name, folder, after)
        resumed_from = second.hear()
        moment = {"seconds": round(seconds, 3), **({"process": rank} if before > 1 else {})}
        return {**moment, "resumed_from": resumed_from, "checksum": second.hear()}


def main() -> int:
    """Measure. Return the exit status: 0 if all resumed runs ended as the uninterrupted ones."""
    parser = argparse.ArgumentParser("python -m benchmarks.resume", description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--kills", type=int, default=KILLS, help=f"per case (default: {KILLS})")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], help="which of the runs (default: all)")
    parser.add_argument("--dry", action="store_true", help="do not write the result")
    arguments = parser.parse_args()
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    record = {name: case for name, case in before.items() if name in CASES and name not in arguments.cases}
    of_code = provenance()
    generator = np.random.default_rng(SEED)
    for name in arguments.cases:
        case = CASES[name]
        expected, duration = uninterrupted(name)
        kills: list[dict[str, Any]] = []
        while len(kills) < arguments.kills:
            kill = killed(name, generator.uniform() * duration, int(generator.integers(case.sizes[0])))
            kills += [kill] if kill else []
        equal = sum(kill["checksum"] == expected for kill in kills)
        print(f"{name}: {equal} of {len(kills)} resumed runs ended as the uninterrupted one ({duration:.1f} s)", flush=True)
        record[name] = {
            **of_code,
            "seed": SEED,  # of the moments of all cases that were measured together
            "timesteps": case.timesteps,
            "seconds": round(duration, 2),
            "checksum": expected,
            "equal": equal,
            "kills": kills,
        }
    if not arguments.dry:
        write_text(FILE, json.dumps(record, indent=1) + "\n")
    return 0 if all(case["equal"] == len(case["kills"]) for case in record.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
