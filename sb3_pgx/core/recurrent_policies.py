"""
Policies with a GRU, recurrent policies for mixed actions, and the names of all recurrent policies. Those with an LSTM are
sb3-contrib's own classes.

This module imports sb3-contrib, so import it only where a recurrent policy is wanted.
"""

from typing import Any

from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)

from sb3_pgx.core.mixed_policies import MixedActionsMixin
from sb3_pgx.core.policies import restart_optimizer
from sb3_pgx.core.recurrence import GRU


class GruMixin(RecurrentActorCriticPolicy):
    """
    A recurrent policy with GRUs instead of LSTMs.

    All arguments and methods are those of sb3-contrib's policies, ``lstm_hidden_size``, ``shared_lstm`` and ``lstm_kwargs``
    included, so that one argument changes the network and nothing else. States come in pairs, too; the second one is unused.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lstm_actor = self._gru_like(self.lstm_actor)
        if self.lstm_critic is not None:
            self.lstm_critic = self._gru_like(self.lstm_critic)
        (group,) = self.optimizer.param_groups
        restart_optimizer(self, group["lr"])

    def _gru_like(self, lstm: Any) -> Any:
        return GRU(lstm.input_size, lstm.hidden_size, num_layers=lstm.num_layers, **self.lstm_kwargs)


class MlpGruPolicy(GruMixin, RecurrentActorCriticPolicy):
    """sb3-contrib's ``MlpLstmPolicy`` with GRUs."""


class CnnGruPolicy(GruMixin, RecurrentActorCriticCnnPolicy):
    """sb3-contrib's ``CnnLstmPolicy`` with GRUs."""


class MultiInputGruPolicy(GruMixin, RecurrentMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputLstmPolicy`` with GRUs."""


class MixedActionsMlpLstmPolicy(MixedActionsMixin, RecurrentActorCriticPolicy):
    """``MlpLstmPolicy`` for mixed actions."""


class MixedActionsCnnLstmPolicy(MixedActionsMixin, RecurrentActorCriticCnnPolicy):
    """``CnnLstmPolicy`` for mixed actions."""


class MixedActionsMultiInputLstmPolicy(MixedActionsMixin, RecurrentMultiInputActorCriticPolicy):
    """``MultiInputLstmPolicy`` for mixed actions."""


class MixedActionsMlpGruPolicy(MixedActionsMixin, MlpGruPolicy):
    """``MlpGruPolicy`` for mixed actions."""


class MixedActionsCnnGruPolicy(MixedActionsMixin, CnnGruPolicy):
    """``CnnGruPolicy`` for mixed actions."""


class MixedActionsMultiInputGruPolicy(MixedActionsMixin, MultiInputGruPolicy):
    """``MultiInputGruPolicy`` for mixed actions."""


BY_NAME: dict[str, type[RecurrentActorCriticPolicy]] = {
    "MlpLstmPolicy": RecurrentActorCriticPolicy,
    "CnnLstmPolicy": RecurrentActorCriticCnnPolicy,
    "MultiInputLstmPolicy": RecurrentMultiInputActorCriticPolicy,
    "MlpGruPolicy": MlpGruPolicy,
    "CnnGruPolicy": CnnGruPolicy,
    "MultiInputGruPolicy": MultiInputGruPolicy,
}

FOR_MIXED_ACTIONS: dict[Any, type[MixedActionsMixin]] = {
    RecurrentActorCriticPolicy: MixedActionsMlpLstmPolicy,
    RecurrentActorCriticCnnPolicy: MixedActionsCnnLstmPolicy,
    RecurrentMultiInputActorCriticPolicy: MixedActionsMultiInputLstmPolicy,
    MlpGruPolicy: MixedActionsMlpGruPolicy,
    CnnGruPolicy: MixedActionsCnnGruPolicy,
    MultiInputGruPolicy: MixedActionsMultiInputGruPolicy,
}
