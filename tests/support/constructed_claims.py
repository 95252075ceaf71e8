"""Claims and draws that are made up, so that their verdict is known."""

from dataclasses import replace

from benchmarks.claims.draws import Draw
from benchmarks.claims.protocol import Claim, PowerCalculation

STATED = {
    "learning": {"bound": 475.0},
    "relative": {"bound": 0.9, "peer": "a2c"},
    "equivalence": {"peer": "sb3:ppo", "margins": {"final return": 5.0, "area under the learning curve": 5.0}},
    "superiority": {"peer": "sb3:ppo", "margins": {"final return": 0.0}},
    "improvement": {"margins": {"final return": 0.0}},
    "gradient variance": {"bound": 1.0, "gradients": 3},
    "false alarms": {"bound": 1.0},
}


def claim_of(kind, n_seeds=6, **changes):
    """A claim of the kind about PPO on CartPole-v1."""
    power = PowerCalculation("a pilot", 0.8, {"x": 1.0}, {"x": 1.0})
    claim = Claim(
        "ppo", "a claim", kind, "ppo", {"CartPole-v1": 1000}, tuple(range(1000, 1000 + n_seeds)), power, "all", "rule", 0.95
    )
    return replace(claim, **STATED[kind], **changes)


def draws_of(claim, *groups, measure="final return"):
    """One draw per value: a group of values for each environment and contender, contenders varying fastest."""
    cells = [(env_id, label) for env_id in claim.environments for label in claim.contenders]
    return [
        Draw(label, env_id, seed, {measure: float(value), "area under the learning curve": float(value)})
        for (env_id, label), values in zip(cells, groups, strict=True)
        for seed, value in zip(claim.seeds, values, strict=True)
    ]
