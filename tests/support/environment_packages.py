"""Well-known packages of environments, and what is really wrong with their default environments."""

import multiprocessing as mp
from importlib.metadata import PackageNotFoundError, version

from sb3_pgx.doctor import examine_environment

STEPS, SECONDS = 100, 300
# Environment: the package that provides it.
ENVIRONMENTS = {
    "CartPole-v1": "gymnasium",
    "Pendulum-v1": "gymnasium",
    "Acrobot-v1": "gymnasium",
    "MountainCar-v0": "gymnasium",
    "FrozenLake-v1": "gymnasium",
    "CliffWalking-v1": "gymnasium",
    "LunarLander-v3": "Box2D",
    "BipedalWalker-v3": "Box2D",
    "HalfCheetah-v5": "mujoco",
    "Hopper-v5": "mujoco",
    "Ant-v5": "mujoco",
    "ale_py:ALE/Pong-v5": "ale-py",
    "MinAtar/Breakout-v1": "MinAtar",
    "minigrid:MiniGrid-Empty-5x5-v0": "minigrid",
    "highway_env:highway-v0": "highway-env",
    "highway_env:parking-v0": "highway-env",
    "gymnasium_robotics:PointMaze_UMaze-v3": "gymnasium-robotics",
    "panda_gym:PandaReach-v3": "panda-gym",
    "flappy_bird_gymnasium:FlappyBird-v0": "flappy-bird-gymnasium",
    "gym_pusht:gym_pusht/PushT-v0": "gym-pusht",
    "shimmy:bsuite/catch-v0": "bsuite",
    "shimmy:dm_control/cartpole-balance-v0": "dm-control",
    "mo_gymnasium:mo-mountaincar-v0": "mo-gymnasium",
    "vizdoom.gymnasium_wrapper:VizdoomBasic-v1": "vizdoom",
    "gym_anytrading:stocks-v0": "gym-anytrading",
    "popgym:popgym-RepeatPreviousEasy-v0": "popgym",
    "memory_gym:MysteryPath-v0": "memory-gym",
    "PyFlyt.gym_envs:PyFlyt/QuadX-Hover-v1": "PyFlyt",
    "gym_electric_motor:Cont-CC-PMSM-v0": "gym-electric-motor",
    "tetris_gymnasium.envs:tetris_gymnasium/Tetris": "tetris-gymnasium",
    "gymnasium_2048:gymnasium_2048/TwentyFortyEight-v0": "gymnasium-2048",
    "miniworld:MiniWorld-Hallway-v0": "miniworld",
    "gym_aloha:gym_aloha/AlohaInsertion-v0": "gym-aloha",
    "metaworld:Meta-World/MT1": "metaworld",
}
# Faults of the environments themselves, each looked at by a person.
TRUE_FAULTS = {
    "minigrid:MiniGrid-Empty-5x5-v0": {"unreadable_observation": "its mission is a text"},
    "mo_gymnasium:mo-mountaincar-v0": {
        "sb3_check_env": "its rewards are vectors",
        "environment_raises": "its rewards are vectors",
    },
    "flappy_bird_gymnasium:FlappyBird-v0": {
        "sb3_check_env": "distances of its lidar reach 1.002, the bounds are 0 and 1",
        "observation_outside_space": "distances of its lidar reach 1.002, the bounds are 0 and 1",
    },
    "gym_electric_motor:Cont-CC-PMSM-v0": {"observation_outside_space": "currents reach -1.13, the bounds are -1 and 1"},
}


def missing(env_id):
    """Return why an environment cannot be examined, or None."""
    try:
        version(ENVIRONMENTS[env_id])
    except PackageNotFoundError:
        return f"{ENVIRONMENTS[env_id]} is not installed"
    return None


def examine(env_id):
    """
    Examine an environment in a process of its own.

    :return: its findings as pairs of severity and name; or a sentence if it cannot be made here
    """
    ours, theirs = mp.Pipe()
    process = mp.get_context("fork").Process(target=_examine, args=(env_id, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else f"it took longer than {SECONDS} s"
    except EOFError:
        process.join()
        return f"its process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def false_faults(env_id, findings):
    """Return the names of the faults that are none."""
    return {name for severity, name in findings if severity == "fault"} - TRUE_FAULTS.get(env_id, {}).keys()


def _examine(env_id, pipe):
    try:
        findings = examine_environment(env_id, STEPS).findings
        pipe.send(sorted({(finding.severity.value, finding.name) for finding in findings}))
    except (ImportError, ValueError) as error:
        pipe.send(str(error))
