"""Hyperparameter search with Optuna, above ``compare``, whose runs it trains; Optuna is imported when it is used."""

from sb3_pgx.settings.search_spaces import params_of, sample_params
from sb3_pgx.tuning.trial_callback import TrialEvalCallback
from sb3_pgx.tuning.tuner import tune

__all__ = ["TrialEvalCallback", "params_of", "sample_params", "tune"]
