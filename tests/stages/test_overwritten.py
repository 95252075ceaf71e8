"""Whatever an environment does to its arrays after handing them over, training equals that with copies."""

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selection import each_value
from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor, VecNormalize
from support.models import assert_same, make, parameters
from support.small_environments import Scripted, ScriptedDict, vectorised

from sb3_pgx.registry import ALGORITHMS

KINDS = ("observations", "rewards", "dones", "infos", "final observations")
# What becomes of what was handed over, at the next step: nothing, other numbers, or the next ones in the same memory.
KEEPS, SPOILS, REUSES = FATES = ("keeps", "spoils", "reuses")


class Overwrites(VecEnvWrapper):
    """
    Hands out memory of its own, and writes into it as soon as the next step begins.

    :param venv: whose results are copied first
    :param fates: for each of ``KINDS``
    """

    def __init__(self, venv: Any, fates: dict[str, str]):
        super().__init__(venv)
        self.fates = fates
        self.handed: dict[str, Any] = {}

    def reset(self) -> Any:
        self._spoil()
        return self._hand("observations", copy.deepcopy(self.venv.reset()))

    def step_async(self, actions: np.ndarray) -> None:
        self._spoil()
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = copy.deepcopy(self.venv.step_wait())
        for i, info in enumerate(infos):
            if "terminal_observation" in info:
                final = info["terminal_observation"]
                final = {k: np.array(x) for k, x in final.items()} if isinstance(final, dict) else final
                final = self._hand("final observations", final, key=f"final observations {i}")
                info["terminal_observation"] = final
        results = zip(KINDS[:3], (observations, rewards, dones), strict=True)
        return (*(self._hand(kind, x) for kind, x in results), self._hand_infos(infos))

    def _hand(self, kind: str, new: Any, key: str | None = None) -> Any:
        key = key or kind
        if self.fates[kind] == REUSES and key in self.handed:
            write(self.handed[key], new)
        else:
            self.handed[key] = new
        return self.handed[key]

    def _hand_infos(self, infos: Any) -> Any:
        if self.fates["infos"] == REUSES and "infos" in self.handed:
            for held, new in zip(self.handed["infos"], infos, strict=True):
                held.clear()
                held.update(new)
        else:
            self.handed["infos"] = infos
        return self.handed["infos"]

    def _spoil(self) -> None:
        for key, held in self.handed.items():
            kind = "final observations" if key.startswith("final") else key
            if self.fates[kind] != SPOILS:
                continue
            if kind == "infos":
                for info in held:
                    info.get("episode", {}).update(r=-1e6, l=10**6)
                    info.clear()
                    info["TimeLimit.truncated"] = True
            else:
                write(held, spoiled(held))


def write(held: Any, new: Any) -> None:
    if isinstance(held, dict):
        for key in held:
            np.copyto(held[key], new[key])
    else:
        np.copyto(held, new)


def spoiled(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: spoiled(part) for key, part in values.items()}
    return ~values if values.dtype == bool else np.full_like(values, np.nan if values.dtype.kind == "f" else 1)


def trained(name: str, kind: type[Scripted], fates: dict[str, str] | None, normalised: bool, own_forward: bool) -> Any:
    env: Any = VecMonitor(vectorised(kind([2, 3, 4], [True, False, True]), kind([3, 5], [False, True])))
    if fates is not None:
        env = Overwrites(env, fates)
    if normalised:
        env = VecNormalize(env)
    policy = "MultiInputPolicy" if kind is ScriptedDict else "MlpPolicy"
    model = make(name, env, policy, policy_kwargs=dict(net_arch=[4]), gamma=0.9)
    if own_forward:  # which gives values and log-probabilities as it acts
        forward = model.policy.forward
        model.policy.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    model.learn(48, log_interval=1)
    statistics = [] if not normalised else [env.obs_rms, env.ret_rms]
    kept = [(e["r"], e["l"]) for e in model.ep_info_buffer]
    return parameters(model), kept, model.num_timesteps, copy.deepcopy(statistics)


@cache
def with_copies(name: str, kind: type[Scripted], normalised: bool, own_forward: bool) -> Any:
    return trained(name, kind, None, normalised, own_forward)


@settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(list(ALGORITHMS)),
    kind=st.sampled_from([Scripted, ScriptedDict]),
    fates=st.fixed_dictionaries({what: st.sampled_from(FATES) for what in KINDS}),
    normalised=st.booleans(),
    own_forward=st.booleans(),
)
def test_training_is_that_with_copies_whatever_becomes_of_the_arrays(name, kind, fates, normalised, own_forward):
    normalised = normalised and kind is Scripted  # VecNormalize takes dictionaries of boxes alone
    expected, ours = with_copies(name, kind, normalised, own_forward), trained(name, kind, fates, normalised, own_forward)
    assert_same(ours[0], expected[0])
    assert ours[1:3] == expected[1:3]
    for left, right in zip(ours[3], expected[3], strict=True):
        assert np.array_equal(left.mean, right.mean) and np.array_equal(left.var, right.var)


@pytest.mark.parametrize("kind, fate", each_value([Scripted, ScriptedDict], [SPOILS, REUSES]))
def test_all_arrays_at_once(name, kind, fate):
    expected, ours = with_copies(name, kind, False, False), trained(name, kind, dict.fromkeys(KINDS, fate), False, False)
    assert_same(ours[0], expected[0])
    assert ours[1:] == expected[1:]
    assert all(th.isfinite(p).all() for p in ours[0].values())
