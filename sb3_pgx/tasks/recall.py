"""Tasks in which the right answer is a cue: one needs memory, one action masks, and one both."""

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgx.tasks.picture import Pictured

N_CUES = 4


class Recall(Pictured):
    """
    Shows one of K = 4 cues in the first step, and asks for it after a delay; the reward is 1 for the right answer.

    The observation is the cue, one-hot, and whether the question is asked. Without memory, the best policy is right in 1 of K
    episodes.

    :param delay: steps between cue and question
    :param render_mode: ``"rgb_array"`` or ``None``
    """

    def __init__(self, delay: int = 6, render_mode: str | None = None):
        super().__init__(render_mode)
        self.delay = delay
        self.observation_space = spaces.Box(0.0, 1.0, (N_CUES + 1,), np.float32)
        self.action_space = spaces.Discrete(N_CUES)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a cue, and show it."""
        super().reset(seed=seed)
        self._cue, self._step = int(self.np_random.integers(N_CUES)), 0
        return self.seen(self._observation()), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Ignore all actions but the answer."""
        asked = self._step > self.delay
        right = asked and self.is_right(int(action))
        self._step += 1
        return self.seen(self._observation()), float(right), asked, False, {}

    def is_right(self, answer: int) -> bool:
        """Return whether an answer is the cue."""
        return answer == self._cue

    def _observation(self) -> np.ndarray:
        observation = np.zeros(N_CUES + 1, np.float32)
        observation[self._cue] = self._step == 0
        observation[N_CUES] = self._step > self.delay
        return observation


class MaskedRecall(Recall):
    """
    :class:`Recall` with 16 answers, of which 4 are valid each time, one for each cue: answer a means cue a mod 4. An invalid
    answer is wrong.

    Which ones are valid is not observed, only masked. With memory and masks, all episodes can be right; with one of them
    alone, 1 of 4.
    """

    def __init__(self, delay: int = 6, render_mode: str | None = None):
        super().__init__(delay, render_mode)
        self.action_space = spaces.Discrete(N_CUES**2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a cue, and the valid answers."""
        result = super().reset(seed=seed)
        self._valid = drawn_valid(self.np_random, N_CUES)
        return result

    def action_masks(self) -> np.ndarray:
        """Return which actions are valid, ``[16]``."""
        return self._valid.copy()

    def is_right(self, answer: int) -> bool:
        """Return whether an answer is valid, and means the cue."""
        return bool(self._valid[answer]) and answer % N_CUES == self._cue


class InvalidActions(Pictured):
    """
    Shows one of 4 cues in each of 10 steps, and rewards the answer with 1 if it is right. Of the 20 answers, 4 are valid in
    each step, one for each cue: answer a means cue a mod 4. An invalid answer ends the episode.

    Which ones are valid is not observed, only masked: without masks, 1 of 5 answers is valid.
    """

    n_answers, length = 20, 10

    def __init__(self, render_mode: str | None = None):
        super().__init__(render_mode)
        self.observation_space = spaces.Box(0.0, 1.0, (N_CUES,), np.float32)
        self.action_space = spaces.Discrete(self.n_answers)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._step = 0
        return self.seen(self._drawn()), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Judge an answer, and show the next cue."""
        valid = bool(self._valid[action])
        right = valid and int(action) % N_CUES == self._cue
        self._step += 1
        return self.seen(self._drawn()), float(right), not valid or self._step == self.length, False, {}

    def action_masks(self) -> np.ndarray:
        """Return which actions are valid, ``[20]``."""
        return self._valid.copy()

    def _drawn(self) -> np.ndarray:
        self._cue, self._valid = int(self.np_random.integers(N_CUES)), drawn_valid(self.np_random, self.n_answers // N_CUES)
        observation = np.zeros(N_CUES, np.float32)
        observation[self._cue] = 1.0
        return observation


def drawn_valid(generator: np.random.Generator, n_each: int) -> np.ndarray:
    """Draw one valid answer for each cue, of ``n_each`` that mean it."""
    valid = np.zeros(n_each * N_CUES, bool)
    valid[generator.integers(n_each, size=N_CUES) * N_CUES + np.arange(N_CUES)] = True
    return valid
