"""The state of a MuJoCo simulation, so that it continues exactly."""

from typing import Any, NamedTuple

import numpy as np

_ASSETS = ("tex_", "mesh_", "hfield_", "skin_", "names", "paths", "text_")  # large, and the same in every episode


class MujocoState(NamedTuple):
    """
    ``integration`` is MuJoCo's own (``mjSTATE_INTEGRATION``). ``derived`` are the other arrays, such as the positions of
    bodies: after a step they belong to the state before it, some environments read them, and computing them again would change
    them. ``constants`` are the model's numbers, which some environments draw at random.
    """

    integration: np.ndarray
    derived: dict[str, np.ndarray]
    constants: dict[str, np.ndarray]


def simulation_of(env: Any) -> tuple[Any, Any] | None:
    """
    Return model and data of an environment that simulates with MuJoCo's Python bindings; ``None`` if it does not.

    :param env: innermost environment
    """
    model, data = vars(env).get("model"), vars(env).get("data")
    is_mujoco = type(model).__name__ == "MjModel" and type(data).__name__ == "MjData"
    return (model, data) if is_mujoco else None


def mujoco_state(simulation: tuple[Any, Any]) -> MujocoState:
    """
    Return the state of a simulation.

    :param simulation: result of :func:`simulation_of`
    """
    import mujoco

    model, data = simulation
    wanted = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(model, wanted))
    mujoco.mj_getState(model, data, integration, wanted)
    return MujocoState(integration, _arrays(data), _arrays(model) | {f"opt.{k}": v for k, v in _arrays(model.opt).items()})


def set_mujoco_state(simulation: tuple[Any, Any], state: MujocoState) -> None:
    """
    Continue a simulation from a state.

    :param simulation: result of :func:`simulation_of`, for the same environment
    :param state: result of :func:`mujoco_state`
    """
    import mujoco

    model, data = simulation
    for name, values in state.constants.items():
        _set(model.opt if name.startswith("opt.") else model, name.removeprefix("opt."), values)
    mujoco.mj_setState(model, data, state.integration, mujoco.mjtState.mjSTATE_INTEGRATION)
    for name, values in state.derived.items():
        _set(data, name, values)


def _arrays(owner: Any) -> dict[str, np.ndarray]:
    arrays = {}
    for name in dir(owner):
        if not name.startswith(("_", *_ASSETS)):
            value = getattr(owner, name, None)
            if isinstance(value, np.ndarray) and value.dtype != object:
                arrays[name] = value.copy()
    return arrays


def _set(owner: Any, name: str, values: np.ndarray) -> None:
    # The number of contacts and constraints differs from step to step; their arrays are computed in the next one.
    array = getattr(owner, name)
    if array.shape == values.shape and array.flags.writeable and not np.array_equal(array, values, equal_nan=True):
        array[...] = values
