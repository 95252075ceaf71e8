"""RecurrentPPO: PPO with the constructor and the defaults of sb3-contrib's class of that name."""

from typing import Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_pgx.algorithms.ppo import PPO


class RecurrentPPO(PPO):
    """
    PPO with a recurrent policy, and the arguments of sb3-contrib's ``RecurrentPPO``.

    ``PPO("MlpLstmPolicy", …)`` is the same algorithm with other defaults. Random numbers and updates are those of
    sb3-contrib's class: with the same seed both compute the same numbers, as far as floating-point order allows. Saved models
    go both ways if the policy has an LSTM.

    :param policy: ``"MlpLstmPolicy"`` (vectors), ``"CnnLstmPolicy"`` (images), ``"MultiInputLstmPolicy"`` (dictionaries), the
        same with ``Gru``, or a class derived from sb3-contrib's recurrent policies
    :param env: an environment, a ``VecEnv`` or the id of a registered environment
    :param learning_rate: see :class:`~sb3_pgx.algorithms.ppo.PPO`, as for all arguments that are not described here
    :param n_steps: steps per environment and rollout. Typical: 64 to 1024. Larger values let the gradient go back further, to
        the start of the rollout at most
    :param batch_size: rows of a minibatch, which are consecutive steps. Typical: 64 to 1024. Larger values let the gradient go
        back further, to the start of the minibatch at most
    :param n_epochs: passes over the rollout per update
    :param gamma: γ, discount factor per step
    :param gae_lambda: λ of generalised advantage estimation
    :param clip_range: ε of the clipped surrogate
    :param clip_range_vf: clip range of the value function; ``None`` disables value clipping
    :param normalize_advantage: standardise the advantages over each minibatch
    :param ent_coef: weight of the entropy in the loss
    :param vf_coef: weight of the mean squared value error in the loss
    :param max_grad_norm: largest L2 norm of the gradient; ``None`` disables clipping
    :param use_sde: use generalised state-dependent exploration
    :param sde_sample_freq: steps between two draws of the noise of ``use_sde``
    :param target_kl: limit on the policy's change, in nats; ``None``: none
    :param stats_window_size: number of recent episodes in the logged means
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor, such as ``dict(lstm_hidden_size=64, shared_lstm=True,
        enable_critic_lstm=False)``
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"``
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: see :class:`~sb3_pgx.algorithms.ppo.PPO`
    :param sequence_length: see :class:`~sb3_pgx.algorithms.ppo.PPO`
    :raises ValueError: an argument is invalid
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {}  # the names of recurrent policies are known everywhere

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 3e-4,
        n_steps: int = 128,
        batch_size: int = 128,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | str | Schedule = 0.2,
        clip_range_vf: float | str | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float | None = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        compile: bool | Literal["auto"] = "auto",
        sequence_length: int | None = None,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
            compile=compile,
            sequence_length=sequence_length,
        )
