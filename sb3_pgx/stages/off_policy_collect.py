"""Step the environments into a replay memory."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgx.core.deferred_values import may_read_locals
from sb3_pgx.core.errors import not_finite_parameter
from sb3_pgx.core.undo import Refusal
from sb3_pgx.engine.compiled_actor import CompiledActor
from sb3_pgx.engine.layers import Modules, NetworkModes
from sb3_pgx.engine.parameters import all_finite
from sb3_pgx.stages.guard import GuardedEnvironments
from sb3_pgx.stages.saving import Saving


class OffPolicyCollecting(Saving, OffPolicyAlgorithm):
    """The first stage of an off-policy algorithm."""

    refuses_gaps: ClassVar[str] = "the replay memory keeps every step"
    compiled: bool  # whether acting and gradient steps run compiled where they can; `learn` decides
    _watched = True  # whether a callback may change policy and optimizers between two steps
    _modes: NetworkModes | None = None  # as long as no callback may change the policy
    _memory_has_gap = False  # whether a step after the memory's last one was not stored
    _guarded: GuardedEnvironments  # of this rollout
    _modules: Modules
    _actor: CompiledActor

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """
        Step the environments and store what they return, as SB3's method does, with the same locals for callbacks.

        :raises Refusal: an observation or a reward is not finite
        """
        self._set_training_mode(False)
        num_collected_steps, num_collected_episodes = 0, 0
        assert isinstance(env, VecEnv), "You must pass a VecEnv"
        if env.num_envs > 1 and train_freq.unit != TrainFrequencyUnit.STEP:
            raise ValueError(
                f"train_freq={(train_freq.frequency, train_freq.unit.value)} counts episodes, but there are {env.num_envs} "
                "environments: count steps, or use one environment"
            )
        if self.use_sde:
            self.actor.reset_noise(env.num_envs)  # type: ignore[operator]
        self._guarded = GuardedEnvironments(env, self._vec_normalize_env, self._n_updates, self._reset_later)
        callback.on_rollout_start()
        continue_training = True
        while should_collect_more_steps(train_freq, num_collected_steps, num_collected_episodes):
            if self.use_sde and self.sde_sample_freq > 0 and num_collected_steps % self.sde_sample_freq == 0:
                self.actor.reset_noise(env.num_envs)  # type: ignore[operator]
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
            new_obs, rewards, dones, infos = self._guarded.step(actions, num_collected_steps)
            self._guarded.check_final_observations(dones, infos, num_collected_steps)
            self.num_timesteps += env.num_envs
            num_collected_steps += 1
            if may_read_locals(callback):
                callback.update_locals(locals())
            if not self._goes_on(callback, new_obs):
                return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, continue_training=False)
            self._update_info_buffer(infos, dones)
            self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            for idx, done in enumerate(dones):
                if done:
                    num_collected_episodes += 1
                    self._episode_num += 1
                    if action_noise is not None:
                        kwargs = dict(indices=[idx]) if env.num_envs > 1 else {}
                        action_noise.reset(**kwargs)
                    if log_interval is not None and self._episode_num % log_interval == 0:
                        self.dump_logs()
        callback.on_rollout_end()
        return RolloutReturn(num_collected_steps * env.num_envs, num_collected_episodes, continue_training)

    def _goes_on(self, callback: BaseCallback, new_obs: Any) -> bool:
        """
        Call a callback after a step. If it ends the run, the step is not stored, as in SB3, and the next run goes on from
        where the environments are.
        """
        goes_on = False
        try:
            goes_on = callback.on_step()
        finally:
            if not goes_on:
                self._last_obs, self._memory_has_gap = new_obs, True
                if self._vec_normalize_env is not None:
                    self._last_original_obs = self._vec_normalize_env.get_original_obs()
        return goes_on

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """As SB3's; the policy's action comes from a compiled graph if there is one."""
        warms_up = self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup)
        sampled = None if warms_up else self._scaled_actions()
        if sampled is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        # SB3 scales the actions to the space's bounds and back, which rounds them.
        scaled = self.policy.scale_action(self.policy.unscale_action(sampled))
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _scaled_actions(self) -> np.ndarray | None:
        """Return the policy's actions, scaled to [−1, 1], ``[N, *action]``; ``None``: SB3's ``predict`` computes them."""
        return self._compiled_actions() if self._acts_compiled() else None

    def _acts_compiled(self) -> bool:
        return (
            self.compiled and type(self).predict is BaseAlgorithm.predict and type(self.policy).predict is BasePolicy.predict
        )

    def _compiled_actions(self) -> np.ndarray | None:
        """Return the policy's actions, scaled to [−1, 1]; ``None`` if the policy cannot be compiled."""
        if self._watched and not self._modules.act_as_before():
            self._modules.look(self.policy)
        observations: Any = self._last_obs
        if isinstance(observations, np.ndarray) and not is_image_space(self.observation_space):
            observations = th.from_numpy(observations)
        else:
            observations = self.policy.obs_to_tensor(observations)[0]
        actions = self._actor(self.policy, self._modules.version, observations)
        if actions is None:
            return None
        if not all_finite(actions):
            bad = not_finite_parameter(self.policy)
            raise Refusal(
                f"the policy cannot act after gradient step {self._n_updates}: "
                f"{'its action' if bad is None else f'the parameter {bad}'} is not finite. Load the last saved model and "
                "lower learning_rate."
            )
        return actions.numpy().reshape((-1, *self.action_space.shape))  # type: ignore[misc, arg-type]

    def _set_training_mode(self, mode: bool) -> None:
        if self._watched:
            self.policy.set_training_mode(mode)
            return
        if self._modes is None:
            self._modes = NetworkModes(self.policy)
        self._modes.train(mode)

    def _reset_later(self) -> None:
        """Make the next ``learn`` start by resetting the environments."""
        self._last_obs = None
