"""What this package claims of its algorithms, each claim as a function that measures it anew."""

import json
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from sb3_pgx.compare.extras import require_extra
from sb3_pgx.compare.gradient_variance import GradientVarianceClaim
from sb3_pgx.compare.learning import LearningClaim
from sb3_pgx.compare.pool import write_json
from sb3_pgx.compare.verdict import Check, Settings, Verdict
from sb3_pgx.zoo.configs import config_folder

CLAIMS: dict[str, tuple[Check, ...]] = {
    "reinforce": (
        LearningClaim("reinforce", "CartPole-v1", timesteps=200_000, threshold=475.0),
        GradientVarianceClaim(),
    ),
    "reinforce_baseline": (
        LearningClaim("reinforce_baseline", "CartPole-v1", timesteps=150_000, threshold=475.0),
        LearningClaim("reinforce_baseline", "Acrobot-v1", timesteps=300_000, threshold=-100.0),
    ),
}


def select_claims(name: str) -> list[str]:
    """
    :param name: an algorithm, or ``"all"``
    :return: algorithms whose claims to check
    :raises ValueError: nothing is claimed under that name; gives the nearest ones
    :raises ImportError: a package that checking needs is not installed
    """
    require_extra()
    if name == "all":
        return list(CLAIMS)
    if name in CLAIMS:
        return [name]
    near = get_close_matches(name, CLAIMS, n=3) or [*CLAIMS, "all"]
    raise ValueError(f"nothing is claimed of {name!r}; choose {' or '.join(near)}")


def results_folder() -> Path:
    """
    Where the results that back the claims are kept, beside the hyperparameter files.

    :raises ValueError: this is an installed package, whose results are those it was released with
    """
    folder = config_folder()
    if folder.parent.name == "sb3_pgx" and (folder.parent / "__init__.py").is_file():
        raise ValueError("--write updates the results in the repository, and this is an installed package; use --output")
    return folder / "results"


def check_claims(
    algorithms: Sequence[str], settings: Settings, results: Path | None = None, tell: Callable[[str], None] = print
) -> bool:
    """
    Measures every claim of the algorithms and tells each verdict as soon as it is known.

    :param algorithms: keys of :data:`CLAIMS`
    :param settings: how to measure
    :param results: folder in which ``<algorithm>.json`` gets the verdicts, one entry a claim; others stay as they are
    :param tell: takes the lines of the report
    :return: whether all claims hold
    """
    passed = True
    for algorithm in algorithms:
        for check in CLAIMS[algorithm]:
            verdict = check(settings)
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
