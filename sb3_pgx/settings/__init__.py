"""Hyperparameter files in rl_zoo3's format, and the environments that they describe."""
