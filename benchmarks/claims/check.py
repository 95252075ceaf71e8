"""What this package claims of its algorithms, each claim as a function that measures it anew."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.claims.agreement import AgreementClaim
from benchmarks.claims.false_alarms import FalseAlarmClaim
from benchmarks.claims.gradient_variance import GradientVarianceClaim
from benchmarks.claims.improvement import TuningClaim
from benchmarks.claims.learning import LearningClaim
from benchmarks.claims.relative import RelativeClaim
from benchmarks.claims.verdict import Claim, Settings, Verdict
from sb3_pgx.core.optional_packages import require_extra
from sb3_pgx.experiments.peers import prepare
from sb3_pgx.experiments.pool import write_json

MUJOCO = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "acer": (
        LearningClaim("acer", "CartPole-v1", timesteps=60_000, threshold=475.0),
        LearningClaim("acer", "Acrobot-v1", timesteps=200_000, threshold=-91.0),
        LearningClaim("acer", "LunarLander-v3", timesteps=1_000_000, threshold=200.0),
        LearningClaim("acer", "Pendulum-v1", timesteps=100_000, threshold=-200.0),
        LearningClaim("acer", "InvertedPendulum-v5", timesteps=300_000, threshold=900.0),
        LearningClaim("acer", "MinAtar/Breakout-v1", timesteps=300_000, threshold=2.0, seeds=(0, 1, 2)),
        RelativeClaim("acer", "a2c", ("HalfCheetah-v5",), timesteps=1_000_000, share=1.0),
        RelativeClaim("acer", "a2c", ("Hopper-v5",), timesteps=1_000_000, share=1.0),
    ),
    "npg": (LearningClaim("npg", "HalfCheetah-v5", timesteps=1_000_000, threshold=2000.0),),
    "ppo": (
        AgreementClaim("ppo", "sb3:ppo", "CartPole-v1", timesteps=100_000),
        AgreementClaim("ppo", "sb3:ppo", "Pendulum-v1", timesteps=100_000),
        AgreementClaim("ppo", "sb3:ppo", "LunarLander-v3", timesteps=1_000_000),
        AgreementClaim("ppo", "sb3:ppo", "HalfCheetah-v5", timesteps=1_000_000),
        LearningClaim("ppo", "LunarLander-v3", timesteps=1_000_000, threshold=200.0),
    ),
    "health": (FalseAlarmClaim("ppo", (("CartPole-v1", 100_000), ("Pendulum-v1", 100_000), ("LunarLander-v3", 200_000))),),
    "ppo_penalty": (
        LearningClaim("ppo_penalty", "CartPole-v1", timesteps=100_000, threshold=475.0),
        RelativeClaim("ppo_penalty", "ppo", MUJOCO, timesteps=1_000_000, share=0.9),
    ),
    "reinforce": (
        LearningClaim("reinforce", "CartPole-v1", timesteps=200_000, threshold=475.0),
        GradientVarianceClaim(),
    ),
    "reinforce_baseline": (
        LearningClaim("reinforce_baseline", "CartPole-v1", timesteps=150_000, threshold=475.0),
        LearningClaim("reinforce_baseline", "Acrobot-v1", timesteps=300_000, threshold=-100.0),
    ),
    "trpo": (
        *(RelativeClaim("trpo", "contrib:trpo", (env_id,), timesteps=1_000_000, share=1.0) for env_id in MUJOCO),
        LearningClaim("trpo", "HalfCheetah-v5", timesteps=1_000_000, threshold=2500.0),
        LearningClaim("trpo", "Hopper-v5", timesteps=1_000_000, threshold=2000.0),
        LearningClaim("trpo", "Walker2d-v5", timesteps=1_000_000, threshold=3000.0),
    ),
    "tuning": (
        TuningClaim("ppo", "CartPole-v1", timesteps=20_000),
        TuningClaim("ppo", "Acrobot-v1", timesteps=30_000),
        TuningClaim("trpo", "CartPole-v1", timesteps=20_000),
        TuningClaim("trpo", "Acrobot-v1", timesteps=60_000),
    ),
}


def select_claims(name: str, only: str | None = None, configs: Path | None = None) -> dict[str, list[Claim]]:
    """
    :param name: an algorithm, or ``"all"``
    :param only: keeps the claims that train in this environment; default all of them
    :param configs: folder of hyperparameter files; default this package's
    :return: claims by algorithm, each ready to be measured: what it trains exists and is installed
    :raises ValueError: nothing is claimed under these names; gives the nearest ones
    :raises ImportError: a package that checking needs is not installed
    """
    require_extra()
    if name != "all" and name not in CLAIMS:
        raise ValueError(f"nothing is claimed of {name!r}; choose {_nearest(name, [*CLAIMS, 'all'])}")
    chosen = {algorithm: [*CLAIMS[algorithm]] for algorithm in (CLAIMS if name == "all" else [name])}
    if only is not None:
        env_ids = list(dict.fromkeys(e for claims in chosen.values() for claim in claims for _, e in claim.trains))
        chosen = {k: [c for c in claims if only in [env_id for _, env_id in c.trains]] for k, claims in chosen.items()}
        if not any(chosen.values()):
            raise ValueError(f"nothing is claimed of {name} on {only!r}; choose {_nearest(only, env_ids)}")
    for algorithm, env_id in dict.fromkeys(pair for claims in chosen.values() for claim in claims for pair in claim.trains):
        prepare(algorithm, env_id, configs)
    return chosen


def _nearest(name: str, names: Sequence[str]) -> str:
    return " or ".join(get_close_matches(name, names, n=3) or names)


def check_claims(
    claims: Mapping[str, Sequence[Claim]],
    settings: Settings,
    results: Path | None = None,
    tell: Callable[[str], None] = print,
) -> bool:
    """
    Measures claims and tells each verdict as soon as it is known. Claims that need the same run share it; runs that
    ``settings.output`` holds from an earlier, perhaps interrupted, measurement are not trained again.

    :param claims: by algorithm, from :func:`select_claims`
    :param settings: how to measure
    :param results: folder in which ``<algorithm>.json`` gets the verdicts, one entry a claim; others stay as they are
    :param tell: takes the lines of the report
    :return: whether all claims hold
    """
    passed = True
    with TemporaryDirectory() as temporary:
        if settings.output is None:
            settings = replace(settings, output=Path(temporary))
        elif any((settings.output / "runs").rglob("*.json")):
            tell(f"finished runs in {settings.output} are reused where settings and versions agree; empty it if code changed")
        for algorithm, checks in claims.items():
            for claim in checks:
                verdict = claim(settings)
                passed &= verdict.passed
                headline = f"{'PASS' if verdict.passed else 'FAIL'}  {verdict.statement}"
                tell("\n      ".join([headline, *verdict.lines]))
                if results is not None:
                    record(verdict, results / f"{algorithm}.json")
    return passed


def record(verdict: Verdict, path: Path) -> None:
    """Puts the verdict into the file, in the place of an earlier one on the same claim."""
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**entries, verdict.key: verdict.record})
