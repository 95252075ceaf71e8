"""
Build and run RLtools' PPO: the process behind ``rltools_ppo.py``. It must not import PyTorch.

It prints one line when the loop is built, and one after each training, whose number of rollouts it reads from a line of the
standard input. Whatever RLtools prints goes to the standard error.
"""

import json
import os
import sys
from pathlib import Path

PENDULUM = """
#include <rl_tools/rl/environments/pendulum/operations_cpu.h>
template <typename T, typename TI>
using ENVIRONMENT_FACTORY = rl_tools::rl::environments::Pendulum<rl_tools::rl::environments::pendulum::Specification<T, TI>>;
"""
SB3S_DEFAULTS = {
    "GAMMA": 0.99,
    "LAMBDA": 0.95,
    "EPSILON_CLIP": 0.2,
    "INITIAL_ACTION_STD": 1.0,
    "ACTION_ENTROPY_COEFFICIENT": 0.0,
    "OPTIMIZER_ALPHA": 3e-4,
    "OPTIMIZER_EPSILON": 1e-5,
    "ACTOR_HIDDEN_DIM": 64,
    "ACTOR_NUM_LAYERS": 3,  # two hidden ones and the output
    "ACTOR_ACTIVATION_FUNCTION": "TANH",
    "CRITIC_HIDDEN_DIM": 64,
    "CRITIC_NUM_LAYERS": 3,
    "CRITIC_ACTIVATION_FUNCTION": "TANH",
}


def main(job: dict) -> None:
    """Build the loop, and train as often as asked."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from rltools import PPO  # it reads the folder for its build from the environment

    Path(job["folder"], "environment.h").write_text(PENDULUM, encoding="utf-8")
    loop = PPO(
        {"path": job["folder"], "observation_dim": 3, "action_dim": 1},
        enable_evaluation=False,
        enable_blas=job["mkl"],
        force_blas=job["mkl"],
        TOTAL_STEP_LIMIT=10**15,  # without an end
        N_ENVIRONMENTS=job["n_envs"],
        ON_POLICY_RUNNER_STEPS_PER_ENV=job["n_steps"],
        BATCH_SIZE=job["batch_size"],
        N_EPOCHS=job["n_epochs"],
        **SB3S_DEFAULTS,
    ).State(job["seed"])
    print("built", file=answers, flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            loop.step()
        print("trained", file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
