"""The arrays of SB3's rollout buffers."""

NAMES = ("actions", "rewards", "advantages", "returns", "episode_starts", "log_probs", "values")


def arrays_of(values):
    return values if isinstance(values, dict) else {"": values}
