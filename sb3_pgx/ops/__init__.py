"""Pure functions on tensors: torch only, no Stable-Baselines3, no state."""
