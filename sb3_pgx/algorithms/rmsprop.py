"""Base of A2C and ACER: RMSprop as the default optimizer, and loading of models that have it, as in SB3's A2C."""

from typing import Any

import torch as th
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_pgx.core.arguments import check_mapping
from sb3_pgx.core.checks import as_flag, check_finite_not_negative, without_arrays
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm, SelfAlgorithm


def with_rms_prop(policy_kwargs: dict[str, Any] | None, use_rms_prop: bool, eps: float) -> dict[str, Any]:
    """
    Return the policy's arguments with RMSprop as the optimizer, unless they name another one.

    :param policy_kwargs: arguments of the policy, as the user gave them
    :param use_rms_prop: whether to add RMSprop
    :param eps: ε of RMSprop
    :raises ValueError: an argument is invalid
    :raises TypeError: ``policy_kwargs`` is not a dictionary
    """
    check_mapping(policy_kwargs=policy_kwargs)
    check_finite_not_negative(**without_arrays({"rms_prop_eps": eps}))
    use_rms_prop = as_flag("use_rms_prop", use_rms_prop)
    policy_kwargs = dict(policy_kwargs or {})
    if use_rms_prop and "optimizer_class" not in policy_kwargs:
        policy_kwargs["optimizer_class"] = th.optim.RMSprop
        policy_kwargs["optimizer_kwargs"] = dict(alpha=0.99, eps=eps, weight_decay=0)
    return policy_kwargs


class RMSpropAlgorithm(PolicyGradientAlgorithm):
    """
    Base of A2C and ACER, which use RMSprop by default and, since their rollouts are short, log every 100 rollouts.

    A subclass passes its ``policy_kwargs`` through :func:`with_rms_prop`.
    """

    @classmethod
    def load(cls: type[SelfAlgorithm], path: Any, *args: Any, **kwargs: Any) -> SelfAlgorithm:
        """
        Load a model, as SB3's ``load`` does. ``policy_kwargs`` may be those that the constructor was given; the optimizer that
        it added is taken from the file.

        Loading unpickles parts of the file, which runs whatever code its author put there: load only files from people you
        trust. To read just the parameters of another file, construct the model and call ``model.set_parameters(path)``.

        :param path: file, or its path
        :param args: further arguments of SB3's ``load``, such as ``env`` and ``device``
        :param kwargs: further arguments of SB3's ``load``, or arguments of the constructor that replace the saved ones
        :return: the model
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
        *,
        use_masking: bool = True,
    ) -> SelfAlgorithm:
        """
        Train. For errors, see :meth:`PolicyGradientAlgorithm.learn`.

        :param total_timesteps: environment steps to take; the last rollout is completed, so there may be more
        :param callback: a callback, a list of callbacks or a function, called at every step
        :param log_interval: rollouts between two log dumps; ``None``: no log. Larger values log less often
        :param tb_log_name: name of the run in TensorBoard; the class's name by default
        :param reset_num_timesteps: count steps from 0, and reset the environments
        :param progress_bar: show a progress bar (needs tqdm and rich)
        :param use_masking: never take actions that the environments mark as invalid
        :return: the model itself
        """
        arguments = (total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        return super().learn(*arguments, use_masking=use_masking)
