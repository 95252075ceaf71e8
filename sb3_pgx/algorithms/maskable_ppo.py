"""MaskablePPO: PPO with the interface, the policies and the files of sb3-contrib's MaskablePPO."""

from typing import Any, ClassVar, Literal, TypeVar

import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.algorithms.ppo import PPO
from sb3_pgx.core.policies import is_maskable

SelfMaskablePPO = TypeVar("SelfMaskablePPO", bound="MaskablePPO")


class MaskablePPO(PPO):
    """
    PPO that never takes actions that the environment marks as invalid (Huang & Ontañón, 2022).

    Constructor, random numbers, updates and files are those of sb3-contrib's ``MaskablePPO``: a script changes its import, and
    each loads the other's models. :class:`~sb3_pgx.PPO` and all other algorithms mask actions as well; this class is for
    scripts, policies and files of sb3-contrib. Two things differ: an invalid action has the probability 0 whatever its logit
    is, and a state without a valid action is an error, in which sb3-contrib would act uniformly.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a policy class. The first three are
        sb3-contrib's, which have two logits per switch of a MultiBinary
    :param env: an environment with a method ``action_masks()`` or a part ``"action_mask"`` of its observations, a ``VecEnv``
        of such, or an id
    :param learning_rate: step size of the optimizer, see :class:`~sb3_pgx.PPO`, also for all that follow
    :param n_steps: steps per environment and rollout
    :param batch_size: rows of a minibatch
    :param n_epochs: passes over the rollout per update
    :param gamma: γ, discount factor per step, in [0, 1]
    :param gae_lambda: λ of generalised advantage estimation, in [0, 1]
    :param clip_range: ε of the clipped surrogate
    :param clip_range_vf: largest distance of a value from the one before the update; ``None``: no limit
    :param normalize_advantage: standardise the advantages over each minibatch
    :param ent_coef: weight of the entropy, of the valid actions, in the loss
    :param vf_coef: weight of the mean squared value error in the loss
    :param max_grad_norm: largest L2 norm of the gradient
    :param rollout_buffer_class: a subclass of sb3-contrib's maskable buffers; ``None``: SB3's interface to the rollout
    :param rollout_buffer_kwargs: further arguments of ``rollout_buffer_class``
    :param target_kl: limit on the policy's change; ``None``: no limit
    :param stats_window_size: number of recent episodes that ``rollout/ep_rew_mean`` averages over
    :param tensorboard_log: folder for TensorBoard logs; ``None`` writes none
    :param policy_kwargs: arguments of the policy's constructor
    :param verbose: 0 prints nothing, 1 prints messages and the log, 2 adds debug messages
    :param seed: seed of weights, actions, minibatches and environments; ``None``: not seeded
    :param device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA if available)
    :param _init_setup_model: build the networks at once; SB3 passes ``False`` while loading
    :param compile: compile acting and the gradient step: ``True``, ``False``, or ``"auto"``
    :raises ValueError: an argument is invalid, or the action space has no masks
    """

    action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MaskableActorCriticPolicy,
        "CnnPolicy": MaskableActorCriticCnnPolicy,
        "MultiInputPolicy": MaskableMultiInputActorCriticPolicy,
    }

    def __init__(
        self,
        policy: str | type[MaskableActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | str | Schedule = 0.2,
        clip_range_vf: float | str | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float | None = 0.5,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
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
    ):
        super().__init__(
            policy,  # type: ignore[arg-type]
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
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
            compile=compile,
        )

    def check_arguments(self) -> None:
        """
        Check the arguments.

        :raises ValueError: an argument is invalid
        """
        super().check_arguments()
        if not is_maskable(self.policy_class):
            raise ValueError(
                f"MaskablePPO takes the policies of sb3-contrib's, which {self.policy_class.__name__} is not derived from: "
                "use PPO, which masks the actions of any policy"
            )

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.rollout_buffer_class in (None, RolloutBuffer) or not issubclass(
            self.rollout_buffer_class, MaskableRolloutBuffer | MaskableDictRolloutBuffer
        ):  # sb3-contrib makes its buffer of the class in the file
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = MaskableDictRolloutBuffer if is_dict else MaskableRolloutBuffer

    def learn(  # type: ignore[override]
        self: SelfMaskablePPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        use_masking: bool = True,
        progress_bar: bool = False,
    ) -> SelfMaskablePPO:
        """
        Train, see :meth:`PPO.learn`. The order of the arguments is sb3-contrib's.

        :param total_timesteps: environment steps; the last rollout is completed, so that more may be done
        :param callback: a callback, a list of callbacks or a function, called at every step
        :param log_interval: rollouts between two log dumps; ``None``: no log
        :param tb_log_name: name of the run in TensorBoard; the class's name by default
        :param reset_num_timesteps: count steps from 0, and reset the environments
        :param use_masking: mask actions
        :param progress_bar: show a progress bar (needs tqdm and rich)
        :return: itself
        :raises ValueError: the environments have no masks, and ``use_masking`` is true
        """
        arguments = (total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        return super().learn(*arguments, use_masking=use_masking)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
        use_masking: bool = True,
    ) -> bool:
        """
        Collect a rollout, see the base class.

        :param use_masking: for loops written for sb3-contrib's class; ``learn`` decides whether there are masks
        """
        if not use_masking:
            self._action_masks = None
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def _find_action_masks(self) -> None:
        super()._find_action_masks()
        if self.use_masking and self._action_masks is None:
            raise ValueError(
                "the environments have no action masks: give them a method action_masks() (sb3_contrib's ActionMasker adds "
                'one), or a part "action_mask" of their observations, or pass learn(use_masking=False)'
            )
