"""Files of models, which are SB3's, and the processes that train a model together, of which the first one writes them."""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pgx.core.files import saving
from sb3_pgx.stages.team import Team
from sb3_pgx.stages.teams import team_of

SelfSaving = TypeVar("SelfSaving", bound="Saving")


class Saving(BaseAlgorithm):
    """An algorithm that is saved and loaded."""

    @property
    def team(self) -> Team:
        """The processes that train this model together, as its environments say."""
        return team_of(self.env)

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        As SB3's. A file that is there already is replaced in one step by a complete one. A learning rate given as a string is
        saved as the schedule that it stands for, which SB3 can load. Of several processes that train the model, the first one
        saves it, and the others do nothing.

        :raises OSError: the file cannot be written; one sentence that names the path
        """
        if not self.team.is_first:
            return
        given = self.learning_rate
        if isinstance(given, str):
            self.learning_rate = self.lr_schedule
        try:
            with saving(path, "zip") as file:
                super().save(file, exclude, include)
        finally:
            self.learning_rate = given

    @classmethod
    def load(
        cls: type[SelfSaving],
        path: Any,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfSaving:
        """
        As SB3's. This unpickles parts of the file, which runs whatever code its author put there: load only files of people
        you trust.

        To read the parameters of anybody else's file, construct the model yourself and call ``model.set_parameters(path)``.
        It reads tensors alone, with torch's ``weights_only``, and runs none of the file's code.
        """
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
