"""The nouns: rollouts and SB3's view of them, policies, distributions, schedules, argument checks."""
