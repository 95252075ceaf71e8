"""The cases of the speed benchmark, each with its goals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from benchmarks.speed import rltools_ppo
from benchmarks.speed.pfrl_acer import PFRLACER
from benchmarks.speed.rltools_ppo import RLToolsPPO, RLToolsPPOWithMKL
from sb3_pgx.experiments.peers import PEERS, resolve_peer
from sb3_pgx.settings.configs import suggestion

DIAGNOSTICS, ARRAYS, ENVPOOL, UNMASKED = "+diagnostics", "+arrays", "+envpool", "+unmasked"
PFRL_ACER = "pfrl:acer"
RLTOOLS_PPO, RLTOOLS_MKL = "rltools:ppo", "rltools:ppo+mkl"
ADAPTERS: dict[str, type[Any]] = {PFRL_ACER: PFRLACER, RLTOOLS_PPO: RLToolsPPO, RLTOOLS_MKL: RLToolsPPOWithMKL}
FRAMES_ALONE = (RLTOOLS_PPO, RLTOOLS_MKL)  # their loop is one call of C++ in another process: only its duration is known
PPO_ROLLOUT = {"n_steps": 256, "batch_size": 64, "n_epochs": 10}
TRPO_ROLLOUT = {"n_steps": 256, "batch_size": 128, "cg_max_steps": 15, "n_critic_updates": 10}
CONTRIB_ROLLOUT = {"n_steps": 128, "batch_size": 128, "n_epochs": 10}
SHARED_64 = {"lstm_hidden_size": 64, "shared_lstm": True, "enable_critic_lstm": False}  # one LSTM, for actor and critic


@dataclass(frozen=True)
class Goal:
    """
    A ratio to reach. The median over the rounds counts.

    :param metric: a key of :data:`~benchmarks.speed.results.METRICS`
    :param peer: the peer to compare with
    :param ratio: the smallest ratio that reaches the goal; the largest one for a metric with ``at_most``
    """

    metric: str
    peer: str
    ratio: float


@dataclass(frozen=True)
class Case:
    """
    One comparison of speed.

    :param name: name of the case, on the command line and in the report
    :param algorithm: the algorithm of this package
    :param env_id: Gymnasium's name of the environment
    :param peers: algorithms to compare with: ``sb3:ppo``, ``contrib:trpo``, ``sbx:ppo``, ``pfrl:acer``, ``rltools:ppo``, or
        one of ours. If the name ends in ``+diagnostics``, it is trained with a ``DiagnosticsCallback``; if it ends in
        ``+arrays``, in environments that step as arrays; if it ends in ``+envpool``, in EnvPool's; if it ends in
        ``+unmasked``, without action masks
    :param goals: ratios to reach
    :param acting_goal: largest time per collection step without the environments, in microseconds
    :param callback_goal: largest share of the whole time in the callback's own methods, in [0, 1]
    :param timesteps: smallest number of environment steps per round; the last rollout is completed
    :param hyperparameters: hyperparameters of all contenders
    :param ours: arguments that only algorithms of this package have
    :param alone: arguments of one contender only, by its name
    :param policy: policy of all contenders
    :param n_envs: number of environments, stepped one after the other in one process
    """

    name: str
    algorithm: str
    env_id: str
    peers: tuple[str, ...] = ("sb3:ppo",)
    goals: tuple[Goal, ...] = ()
    acting_goal: float | None = None
    callback_goal: float | None = None
    timesteps: int = 20_480
    hyperparameters: Mapping[str, Any] = field(default_factory=lambda: PPO_ROLLOUT)
    ours: Mapping[str, Any] = field(default_factory=lambda: {"compile": True})
    alone: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy: str = "MlpPolicy"
    n_envs: int = 8

    def arguments(self, contender: str) -> dict[str, Any]:
        """Return the keyword arguments of a contender's constructor."""
        return {**self.hyperparameters, **({} if ":" in contender else self.ours), **self.alone.get(contender, {})}

    @property
    def compiles(self) -> bool:
        """Whether the algorithm of this package compiles its update."""
        return bool(self.ours.get("compile"))


CASES = (
    Case(
        "ppo-cartpole",
        "ppo",
        "CartPole-v1",
        ("sb3:ppo", "sbx:ppo"),
        (
            Goal("frames", "sb3:ppo", 4.5),
            Goal("frames", "sbx:ppo", 1.8),
            Goal("step", "sb3:ppo", 6.0),
            Goal("step", "sbx:ppo", 1.8),
            Goal("acting", "sb3:ppo", 190 / 60),  # acting_goal as a ratio, because machines differ: SB3 takes 190 µs
            Goal("data", "sb3:ppo", 1.15),
        ),
        acting_goal=60.0,
    ),
    Case(
        "ppo-pendulum",
        "ppo",
        "Pendulum-v1",
        ("sb3:ppo", "sbx:ppo", RLTOOLS_PPO, RLTOOLS_MKL),
        (Goal("frames", "sb3:ppo", 4.5), Goal("frames", "sbx:ppo", 1.8), Goal("frames", RLTOOLS_PPO, 1.3)),
    ),
    Case(
        "ppo-halfcheetah",
        "ppo",
        "HalfCheetah-v5",
        ("sb3:ppo", "sbx:ppo"),
        (Goal("frames", "sb3:ppo", 3.0), Goal("frames", "sbx:ppo", 1.5)),
        timesteps=10_240,
    ),
    Case(
        "ppo-cartpole-eager",
        "ppo",
        "CartPole-v1",
        goals=(Goal("frames", "sb3:ppo", 2.0), Goal("memory", "sb3:ppo", 1.15)),
        timesteps=10_240,
        ours={"compile": False},
    ),
    Case("ppo_penalty-cartpole", "ppo_penalty", "CartPole-v1", ("ppo",), (Goal("frames", "ppo", 0.85),)),
    Case(
        "ppo_penalty-halfcheetah", "ppo_penalty", "HalfCheetah-v5", ("ppo",), (Goal("frames", "ppo", 0.85),), timesteps=10_240
    ),
    Case("a2c-cartpole", "a2c", "CartPole-v1", ("sb3:a2c",), (Goal("frames", "sb3:a2c", 2.5),), hyperparameters={}),
    *(
        # A replayed update of 16 segments of 20 steps may take as long as three steps of PPO on the same number of rows. The
        # fixed cost of a rollout is shared by its updates: it is large with 4 of them, and small with 16, as with PPO's 80.
        Case(
            name,
            "acer",
            env_id,
            ("ppo",),
            (Goal("step", "ppo", 1 / 3),),
            hyperparameters={},
            alone={"acer": {"n_steps": 20, "replay_start": 320, **replay}, "ppo": {"n_steps": 160, "batch_size": 320}},
            n_envs=16,
        )
        for name, env_id, replay in (
            ("acer-cartpole", "CartPole-v1", {}),
            ("acer-pendulum", "Pendulum-v1", {}),
            ("acer-pendulum-16-replays", "Pendulum-v1", {"replay_ratio": 16.0}),
        )
    ),
    Case(  # the peer needs seconds for a few rollouts
        "acer-cartpole-pfrl",
        "acer",
        "CartPole-v1",
        (PFRL_ACER,),
        timesteps=1_280,
        hyperparameters={"n_steps": 20, "replay_start": 320},
        n_envs=16,
    ),
    Case(
        "trpo-cartpole",
        "trpo",
        "CartPole-v1",
        ("contrib:trpo",),
        (Goal("frames", "contrib:trpo", 2.0),),
        hyperparameters=TRPO_ROLLOUT,
    ),
    Case(
        "trpo-halfcheetah",
        "trpo",
        "HalfCheetah-v5",
        ("contrib:trpo",),
        (Goal("frames", "contrib:trpo", 1.6),),
        timesteps=10_240,
        hyperparameters=TRPO_ROLLOUT,
    ),
    Case(
        "trpo-halfcheetah-trust-region-critic",
        "trpo",
        "HalfCheetah-v5",
        ("contrib:trpo",),
        timesteps=10_240,
        hyperparameters=TRPO_ROLLOUT,
        ours={"compile": True, "critic": "trust_region"},
    ),
    Case(
        "ppo-halfcheetah-256x256",
        "ppo",
        "HalfCheetah-v5",
        goals=(Goal("frames", "sb3:ppo", 1.3),),
        timesteps=8_192,
        hyperparameters={**PPO_ROLLOUT, "batch_size": 256, "policy_kwargs": {"net_arch": [256, 256]}},
    ),
    *(
        Case(  # the cost of a DiagnosticsCallback, with its defaults and those of the algorithm
            f"{name.replace(':', '-')}-diagnostics",
            f"{name}+diagnostics",
            "CartPole-v1",
            (name,),
            callback_goal=share,
            timesteps=timesteps,
            hyperparameters={},
            ours={} if ":" in name else {"compile": True},
        )
        for name, share, timesteps in (
            ("ppo", 0.03, 32_768),
            ("sb3:ppo", 0.03, 16_384),
            ("a2c", 0.1, 40_960),
            ("sb3:a2c", 0.1, 20_480),
        )
    ),
    *(
        Case(
            f"ppo-cartpole-{n_envs}-arrays",
            f"ppo{ARRAYS}",
            "CartPole-v1",
            ("sb3:ppo", "ppo"),
            goals,
            timesteps=10 * 128 * n_envs if n_envs > 8 else 20_480,
            hyperparameters={"n_steps": 128, "batch_size": 256, "n_epochs": 4},
            n_envs=n_envs,
        )
        for n_envs, goals in (
            (8, ()),
            (64, (Goal("frames", "ppo", 1.8), Goal("frames", "sb3:ppo", 10.0))),
            (256, ()),
        )
    ),
    Case(
        "ppo-pendulum-envpool",
        f"ppo{ENVPOOL}",
        "Pendulum-v1",
        ("ppo", RLTOOLS_PPO, RLTOOLS_MKL),
        (Goal("frames", RLTOOLS_PPO, 0.8),),
        timesteps=40_960,
        hyperparameters={"n_steps": 1024, "batch_size": 256, "n_epochs": 2},
        n_envs=4,
    ),
    Case(
        "ppo-halfcheetah-envpool",
        f"ppo{ENVPOOL}",
        "HalfCheetah-v5",
        ("ppo",),
        (Goal("frames", "ppo", 1.8),),
    ),
    Case(  # the settings of Schulman et al. (2017, table 5)
        "ppo-pong-arrays",
        f"ppo{ARRAYS}",
        "ale_py:ALE/Pong-v5",
        ("ppo",),
        (Goal("frames", "ppo", 1.3),),
        timesteps=1_024,
        hyperparameters={"n_steps": 128, "batch_size": 256, "n_epochs": 3},
        policy="CnnPolicy",
    ),
    Case(
        "ppo-masks",
        "ppo",
        "benchmarks.speed.choices:Choices-v0",
        ("contrib:maskableppo", f"ppo{UNMASKED}"),
        (Goal("frames", "contrib:maskableppo", 5.0), Goal("frames", f"ppo{UNMASKED}", 0.85)),
        hyperparameters=CONTRIB_ROLLOUT,
    ),
    *(
        Case(
            name,
            "ppo",
            "CartPole-v1",
            ("contrib:recurrentppo",),
            (Goal("frames", "contrib:recurrentppo", goal),),
            timesteps=2_048,
            hyperparameters={**CONTRIB_ROLLOUT, "policy_kwargs": lstm},
            ours={"compile": compiles, **ours},
            policy="MlpLstmPolicy",
        )
        for name, lstm, compiles, ours, goal in (
            ("ppo-lstm-64", SHARED_64, True, {}, 12.0),
            ("ppo-lstm-64-eager", SHARED_64, False, {}, 3.0),
            ("ppo-lstm-2x256", {}, True, {}, 5.0),
            ("ppo-lstm-2x256-pieces", {}, True, {"sequence_length": 16}, 8.0),
            ("ppo-lstm-2x256-eager", {}, False, {}, 3.0),
        )
    ),
    *(
        Case(
            f"{algorithm}-halfcheetah-{width}x{width}",
            algorithm,
            "HalfCheetah-v5",
            (f"sb3:{algorithm}", f"sbx:{algorithm}") if width == 256 else (f"sb3:{algorithm}",),
            (Goal("frames", f"sb3:{algorithm}", goal),),
            timesteps=timesteps,
            hyperparameters={
                "learning_starts": 0,  # the rounds of the warm-up are as short as can be
                "batch_size": batch_size,
                "buffer_size": 100_000,
                "policy_kwargs": {"net_arch": [width, width]},
            },
            n_envs=1,
        )
        for algorithm, width, batch_size, timesteps, goal in (
            ("sac", 256, 256, 500, 2.2),
            ("td3", 256, 256, 500, 2.0),
            ("sac", 64, 64, 1_500, 5.0),
            ("td3", 64, 64, 1_500, 5.0),
        )
    ),
    Case(
        "ppo-images",
        "ppo",
        "benchmarks.speed.frames:RandomFrames-v0",
        goals=(Goal("frames", "sb3:ppo", 1.3),),
        timesteps=256,
        hyperparameters={**PPO_ROLLOUT, "n_steps": 32},
        policy="CnnPolicy",
    ),
)


def select_cases(names: Sequence[str] | None, known: Sequence[Case] = CASES) -> tuple[Case, ...]:
    """
    Return the cases with these names.

    :param names: names of cases; ``None``: all cases
    :param known: the cases that there are
    :return: the cases, in the order of ``known``
    :raises ValueError: there is no case of that name; the message suggests the nearest names
    """
    known_names = [case.name for case in known]
    for name in names or ():
        if name not in known_names:
            hint = suggestion(name, known_names) or f"; choose from {', '.join(known_names)}"
            raise ValueError(f"benchmark case {name!r} is unknown{hint}")
    return tuple(case for case in known if names is None or case.name in names)


def missing_package(contender: str) -> str | None:
    """Return why a contender cannot run here, with the remedy; ``None`` if its packages are installed."""
    origin, colon, _ = contender.partition(":")
    if contender == PFRL_ACER:
        return None if find_spec("pfrl") and find_spec("gym") else f"{contender} needs PFRL and Gym: pip install pfrl gym"
    if origin == "rltools":
        needs = rltools_ppo.missing(ADAPTERS[contender].mkl)
        return f"{contender} needs {needs}" if needs else None
    if contender.endswith(ENVPOOL) and not find_spec("envpool"):
        return f"{contender} needs envpool, which is not installed: pip install envpool"
    if not colon or find_spec(PEERS[origin].module):
        return None
    return f"{contender} needs {PEERS[origin].module}, which is not installed: pip install {PEERS[origin].distribution}"


def contender_class(contender: str) -> type[Any]:
    """Return the class of a contender. Its package must be installed. It has the methods of SB3 that are timed."""
    return ADAPTERS.get(contender) or resolve_peer(contender.partition("+")[0]).algorithm
