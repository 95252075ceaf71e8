"""
What do more processes bring? The script trains PPO in environments whose steps take 2 ms, on 1, 2 and 4 processes.

It starts itself with ``torchrun``. The environments sleep, so that processes do not compete for the cores of one machine.
"""

import hashlib
import json
import os
import subprocess
import sys
import time

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
from shared import announce, arguments, new_figure, print_table, save
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgx import PPO
from sb3_pgx.environments import make_vec_env
from sb3_pgx.parallel import is_first

SIZES = (1, 2, 4)


class SlowCartPole(CartPoleEnv):
    """CartPole whose steps take 2 ms, as those of a simulator or of a robot do."""

    def step(self, action):
        time.sleep(0.002)
        return super().step(action)


gym.register("SlowCartPole-v0", entry_point=SlowCartPole, max_episode_steps=500)


def train(seed: int, timesteps: int) -> None:
    """Train in one of the processes. The argument ``parallel`` is all that differs from an ordinary script."""
    env = VecNormalize(make_vec_env("SlowCartPole-v0", n_envs=8, seed=seed, parallel="gather"))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=128, n_epochs=4, seed=seed, device="cpu", compile=False)
    start = time.perf_counter()
    model.learn(timesteps)
    if is_first():
        numbers = b"".join(x.numpy().tobytes() for x in model.policy.state_dict().values())
        print(json.dumps([time.perf_counter() - start, hashlib.sha256(numbers).hexdigest()[:12]]))


def run(size: int, seed: int, timesteps: int) -> tuple[float, str]:
    """Train on several processes. Return the seconds, and a digest of the final parameters."""
    announce(f"processes: {size}", seed)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), "--standalone", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, "--train", str(seed), str(timesteps)], env=environment, capture_output=True, text=True, check=True
    )
    seconds, digest = json.loads(done.stdout.splitlines()[-1])
    return seconds, digest


def main(argv: list[str] | None = None) -> None:
    args = arguments(__file__, "What do more processes bring?", seeds=1, argv=argv)
    timesteps = args.steps(8_192, quick=1_024)
    runs = {size: [run(size, seed, timesteps) for seed in args.seeds] for size in SIZES}
    speeds = {size: timesteps * len(of_size) / sum(seconds for seconds, _ in of_size) for size, of_size in runs.items()}
    rows = [
        [str(size), f"{speed:,.0f}", f"{speed / speeds[1]:.1f}", f"{speed / speeds[1] / size:.0%}", runs[size][0][1]]
        for size, speed in speeds.items()
    ]
    print_table(["processes", "steps per second", "speed-up", "efficiency", "digest of the parameters"], rows)
    same = all([digest for _, digest in of_size] == [digest for _, digest in runs[1]] for of_size in runs.values())
    print(f"The final parameters are {'the same, bit for bit' if same else 'DIFFERENT'}.")
    print(f"Seeds {list(args.seeds)}, {timesteps:,} steps in environments whose steps take 2 ms.")

    figure, (axes,) = new_figure(1)
    axes.plot(SIZES, speeds.values(), "o-", label="measured")
    axes.plot(SIZES, [size * speeds[1] for size in SIZES], "--", label="proportional")
    axes.set(xlabel="processes", ylabel="steps per second", ylim=(0, None))
    axes.legend(frameon=False)
    save(figure, args)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*map(int, sys.argv[2:]))
    else:
        main()
