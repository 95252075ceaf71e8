"""Plug-in that adds this package's algorithms to rl_zoo3's commands."""
