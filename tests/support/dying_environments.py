"""Environments that crash, end their process, or hang in their 30th step, and a sound one."""

import ctypes
import os
import time

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Sound(CartPoleEnv):
    calls = 0

    def step(self, action):
        self.calls += 1
        if self.calls == 30:
            self.die()
        return super().step(action)

    def die(self):
        pass


class Crashes(Sound):
    def die(self):
        ctypes.string_at(0)


class Exits(Sound):
    def die(self):
        os._exit(0)


class Hangs(Sound):
    def die(self):
        time.sleep(1e6)


for kind in (Sound, Crashes, Exits, Hangs):
    if f"{kind.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"{kind.__name__}-v0", f"{__name__}:{kind.__name__}", max_episode_steps=10)
