"""A callback for your own Optuna scripts: evaluates the model during training and stops it if the trial is pruned."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_pgx.environments.evaluation import EvalCallback, evaluate_policy

if TYPE_CHECKING:
    from optuna.trial import Trial


class TrialEvalCallback(EvalCallback):
    """
    SB3's ``EvalCallback`` that reports to an Optuna trial, for any SB3 algorithm::

        callback = TrialEvalCallback(eval_env, trial, every=5_000)
        model.learn(50_000, callback=callback)
        return callback.score()

    Trials are compared after ``every``, 2 ``every``, … environment steps, summed over the parallel environments. The score is
    that of the final policy, which is evaluated after the last update.

    :param eval_env: a separate environment for evaluation; its rewards are not normalised
    :param trial: Optuna's trial
    :param every: environment steps from one evaluation to the next
    :param n_eval_episodes: episodes per evaluation during training
    :param n_final_episodes: episodes of the final evaluation; default: ``n_eval_episodes``
    :param deterministic: whether the policy plays its most likely action
    :param kwargs: further arguments of ``EvalCallback``, such as ``best_model_save_path``
    """

    def __init__(
        self,
        eval_env: gym.Env | VecEnv,
        trial: "Trial",
        every: int = 10_000,
        n_eval_episodes: int = 5,
        n_final_episodes: int | None = None,
        deterministic: bool = True,
        **kwargs: Any,
    ):
        super().__init__(eval_env, n_eval_episodes=n_eval_episodes, deterministic=deterministic, **{"verbose": 0, **kwargs})
        self.trial = trial
        self.every = every
        self.n_final_episodes = n_final_episodes or n_eval_episodes
        self.is_pruned = False
        self.final_return: float | None = None

    def _on_training_start(self) -> None:
        self._next = (self.model.num_timesteps // self.every + 1) * self.every

    def _on_step(self) -> bool:
        due = self.num_timesteps >= self._next
        self.eval_freq = self.n_calls if due else 0  # makes EvalCallback evaluate at this step, or not
        go_on = super()._on_step()
        if due:
            self.trial.report(self.last_mean_reward, self._next)
            self._next = (self.num_timesteps // self.every + 1) * self.every
            self.is_pruned = self.trial.should_prune()
        return go_on and not self.is_pruned

    def _on_training_end(self) -> None:
        if self.is_pruned:
            return
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        mean, _ = evaluate_policy(self.model, self.eval_env, self.n_final_episodes, deterministic=self.deterministic)
        assert isinstance(mean, float)
        self.final_return = mean

    def score(self) -> float:
        """
        Return the mean return of the final policy. Return it from the objective, after ``learn()``.

        :raises optuna.TrialPruned: the trial was pruned
        :raises ValueError: ``learn()`` has not ended
        """
        if self.is_pruned:
            import optuna

            raise optuna.TrialPruned(f"pruned after {self.num_timesteps} steps")
        if self.final_return is None:
            raise ValueError("there is no score yet: call score() after learn() has ended")
        return self.final_return
