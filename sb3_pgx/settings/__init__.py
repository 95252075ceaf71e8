"""Hyperparameter files in rl_zoo3's format, the environments that they describe, and search spaces."""
