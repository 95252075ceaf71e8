"""
One run of A2C or A3C on CartPole-v1 with the settings of ``zoo_configs/a3c.yml``: the process behind ``a3c.py``.

It prints what it measured as JSON: steps per second and seconds until the workers began, updates, their mean staleness and
the share of stale ones (all three of the first worker), steps until the mean of the last 100 training episodes reached 475,
and the mean return of 20 deterministic episodes afterwards.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_pgx import A2C, A3C
from sb3_pgx.settings.configs import load_config

ENV, WANTED, EVALUATION_SEED = "CartPole-v1", 475.0, 2_000_000


class Measures(BaseCallback):
    """Keeps when training began and reached the wanted return, and how stale the updates were."""

    def __init__(self) -> None:
        super().__init__()
        self.began: float | None = None
        self.reached: int | None = None
        self.staleness: list[float] = []

    def _on_rollout_start(self) -> None:
        if self.began is None:
            self.began = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def on_update_end(self, metrics: dict[str, float]) -> None:
        """Read the metrics of an update."""
        self.staleness.append(metrics.get("staleness", 0.0))
        episodes = self.model.ep_info_buffer or ()
        if self.reached is None and len(episodes) == 100 and sum(e["r"] for e in episodes) >= 100 * WANTED:
            self.reached = self.model.num_timesteps


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Train once, and return what was measured."""
    th.set_num_threads(1)
    seed, n_workers = job["seed"], job["n_workers"]
    arguments = {**load_config("a3c", ENV).hyperparameters, "seed": seed, "device": "cpu", "compile": False}
    del arguments["n_workers"]
    env = make_vec_env(ENV, job["n_envs"], seed=seed)
    model: A2C
    if n_workers is None:
        model = A2C("MlpPolicy", env, **arguments)
    else:
        model = A3C("MlpPolicy", env, n_workers=n_workers, **arguments)
    measures, start = Measures(), time.perf_counter()
    model.learn(job["timesteps"], callback=measures, log_interval=None)
    end = time.perf_counter()
    assert measures.began is not None
    evaluation = make_vec_env(ENV, 20, seed=EVALUATION_SEED + 1000 * seed)
    returns, _ = evaluate_policy(model, evaluation, n_eval_episodes=20, return_episode_rewards=True)
    updates = measures.staleness
    return {
        "frames_per_second": round(model.num_timesteps / (end - measures.began), 1),
        "start_seconds": round(measures.began - start, 2),
        "n_updates": len(updates),
        "staleness": round(sum(updates) / len(updates), 3),
        "stale": round(sum(s > 0 for s in updates) / len(updates), 3),
        "steps_to_475": measures.reached,
        "final_return": float(np.mean(returns)),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
