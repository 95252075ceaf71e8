"""Rollouts and SB3's view of them, policies, distributions, schedules, argument checks: what all stages work with."""
