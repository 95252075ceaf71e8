"""What algorithms of a few steps a rollout share, as SB3's A2C has it: RMSprop by default, and a log now and then."""

from typing import Any

import torch as th
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_pgx.core.arguments import check_mapping
from sb3_pgx.core.checks import as_flag, check_finite_not_negative, without_arrays
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm, SelfAlgorithm


def with_rms_prop(policy_kwargs: dict[str, Any] | None, use_rms_prop: bool, eps: float) -> dict[str, Any]:
    """
    :param policy_kwargs: as the user gave them
    :param use_rms_prop: whether RMSprop is wanted at all
    :param eps: its ε
    :return: with the optimizer, unless they name one
    :raises ValueError: an argument makes no sense
    :raises TypeError: ``policy_kwargs`` is no dictionary
    """
    check_mapping(policy_kwargs=policy_kwargs)
    check_finite_not_negative(**without_arrays({"rms_prop_eps": eps}))
    use_rms_prop = as_flag("use_rms_prop", use_rms_prop)
    policy_kwargs = dict(policy_kwargs or {})
    if use_rms_prop and "optimizer_class" not in policy_kwargs:
        policy_kwargs["optimizer_class"] = th.optim.RMSprop
        policy_kwargs["optimizer_kwargs"] = dict(alpha=0.99, eps=eps, weight_decay=0)
    return policy_kwargs


class ShortRollouts(PolicyGradientAlgorithm):
    """An algorithm that calls :func:`with_rms_prop`, and logs every hundred rollouts."""

    @classmethod
    def load(cls: type[SelfAlgorithm], path: Any, *args: Any, **kwargs: Any) -> SelfAlgorithm:
        """
        As SB3's. ``policy_kwargs`` may be those that the constructor was given, without the optimizer it added.

        This unpickles parts of the file, which runs whatever code its author put there: load only files of people you trust.
        To read the parameters of anybody else's file, construct the model yourself and call ``model.set_parameters(path)``.
        """
        given = kwargs.get("policy_kwargs")
        if given is not None:
            data, _, _ = load_from_zip_file(path, device="cpu")
            stored = (data or {}).get("policy_kwargs", {})
            added = {name: stored[name] for name in ("optimizer_class", "optimizer_kwargs") if name in stored}
            kwargs["policy_kwargs"] = {**added, **given}
        return super().load(path, *args, **kwargs)

    def learn(
        self: SelfAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAlgorithm:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
