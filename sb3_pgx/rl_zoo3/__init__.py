"""This package's algorithms in rl_zoo3's commands."""
