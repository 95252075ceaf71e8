"""What a step of ACER is made of: segments of consecutive transitions, on-policy or replayed."""

from dataclasses import dataclass

from torch import Tensor

from sb3_pgx.common.rollout import Observations, Rows


@dataclass
class Segments(Rows):
    """
    M segments of T consecutive transitions of one environment each; B = T * M rows, step after step.

    Episodes may end within a segment. ``final_values`` are V of the final observations where episodes were truncated.
    """

    observations: Observations  # [(T + 1) * M, *obs]: those of the rows, then what followed the last ones
    actions: Tensor  # [B, action_dim]
    behaviour: Tensor  # [B, K], packed parameters of the action distribution that acted
    average: Tensor  # [B, K], of the average policy's
    rewards: Tensor  # [T, M]
    terminated: Tensor  # [T, M], boolean
    truncated: Tensor  # [T, M], boolean
    final_values: Tensor  # [T, M]
    noise: Tensor | None = None  # Box: standard normal numbers for actions of the policy, [1 + 2 n, B, D]
    bounds: Tensor | None = None  # Box: between which the environment takes actions, lowest and highest, [2, D]

    def __len__(self) -> int:
        return self.rewards.numel()

    def suspects(self) -> dict[str, Tensor]:
        return {"rewards": self.rewards, "values of the final observations": self.final_values}
