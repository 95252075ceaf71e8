"""Hyperparameter search with Optuna. Optuna is imported only when a search starts."""

from sb3_pgx.settings.search_spaces import params_of, sample_params
from sb3_pgx.tuning.trial_callback import TrialEvalCallback
from sb3_pgx.tuning.tuner import tune

__all__ = ["TrialEvalCallback", "params_of", "sample_params", "tune"]
