"""
Read the claims and check that they follow the protocol.

``benchmarks/claims/protocol.yml`` holds the rules that all claims share. Every other ``*.yml`` there holds the claims on one
subject. The files are committed before the first run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks import CLAIMS
from benchmarks.claims.power import power_of, required_seeds
from benchmarks.claims.verdicts import BETTER, EQUIVALENT, REACHED
from sb3_pgx.core.errors import one_line
from sb3_pgx.experiments.number_format import thousands
from sb3_pgx.settings.configs import suggestion

SHARED = "protocol.yml"
FIRST_REPORT_SEED = 1_000  # seeds 100 to 999 are for tuning

FINAL_RETURN = "final return"
CURVE_AREA = "area under the learning curve"


@dataclass(frozen=True)
class Kind:
    """
    A kind of claim.

    :param statement: the claim in words
    :param claimed: the verdict that confirms the claim
    :param needs: keys that an entry of this kind must have in addition to those of every claim
    :param several_environments: whether one claim may be about more than one environment
    """

    statement: str
    claimed: str
    needs: frozenset[str]
    several_environments: bool = False


KINDS = {
    "learning": Kind("{algorithm} reaches {bound:g} on {where} within {steps} steps", REACHED, frozenset({"bound"})),
    "relative": Kind(
        "{algorithm} reaches {bound:g} of {peer} on {where} in {steps} steps", REACHED, frozenset({"bound", "peer"}), True
    ),
    "equivalence": Kind(
        "{algorithm} learns as {peer} does on {where} in {steps} steps", EQUIVALENT, frozenset({"peer", "margins"})
    ),
    "superiority": Kind("{algorithm} beats {peer} on {where} in {steps} steps", BETTER, frozenset({"peer", "margins"})),
    "improvement": Kind("{algorithm} tuned beats its defaults on {where} in {steps} steps", BETTER, frozenset({"margins"})),
    "gradient variance": Kind(
        "every baseline of {algorithm} lowers the variance of the gradient on {where}",
        REACHED,
        frozenset({"bound", "gradients"}),
    ),
    "false alarms": Kind(
        "healthy runs of {algorithm} on {where} have at most {bound:g} false alarm in 100 updates",
        REACHED,
        frozenset({"bound"}),
        True,
    ),
}
EVERY_CLAIM = frozenset({"kind", "algorithm", "environments", "seeds", "power"})
OPTIONAL = frozenset({"version", "earlier", "stopping", "confidence"})
SHARED_KEYS = frozenset({"stopping", "failed_runs", "analysis", "confidence", "corrections"})


class ProtocolError(ValueError):
    """A file breaks the protocol. The message names the file, the claim and the remedy."""


@dataclass(frozen=True)
class PowerCalculation:
    """
    The power calculation behind the number of seeds.

    :param pilot: the runs from which distance and spread come
    :param wanted: wanted probability of the claimed verdict
    :param distance: distance from the assumed true value to the bound, by measure; for equivalence the margin
    :param spread: standard error of the statistic with one seed per group, by measure (``power.spread_of``)
    :param limited: the reason if fewer seeds are planned than the calculation asks for; otherwise empty
    """

    pilot: str
    wanted: float
    distance: dict[str, float]
    spread: dict[str, float]
    limited: str = ""


@dataclass(frozen=True)
class EarlierVersion:
    """
    An earlier version of a claim. Its seeds cannot be used again, and its record stays published.

    :param version: number of the version
    :param seeds: seeds that the version used
    :param reason: why the version was superseded
    """

    version: int
    seeds: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Claim:
    """
    A claim, with everything that is decided before its first run.

    :param subject: name of the claim's file, without the suffix
    :param name: name of the claim in that file
    :param kind: a key of :data:`KINDS`
    :param algorithm: name of the algorithm that the claim is about, as ``sb3-pgx compare`` takes it
    :param environments: environment steps per run, by environment
    :param seeds: planned seeds; all of them are run, and no other claim uses them
    :param power: the power calculation behind the number of seeds
    :param stopping: when measuring ends
    :param failed_runs: how failed runs count
    :param confidence: level of the confidence interval, in (0.5, 1)
    :param peer: name of the algorithm to compare with; ``None`` if there is none
    :param bound: threshold, share, or largest rate; ``None`` for a claim about a difference
    :param margins: largest difference that counts as equivalent, by measure
    :param gradients: number of gradients per seed, for claims on the variance of the gradient
    :param version: number of the version; it is raised when margins, budget, seeds or code of a measured claim change
    :param earlier: superseded versions
    """

    subject: str
    name: str
    kind: str
    algorithm: str
    environments: dict[str, int]
    seeds: tuple[int, ...]
    power: PowerCalculation
    stopping: str
    failed_runs: str
    confidence: float
    peer: str | None = None
    bound: float | None = None
    margins: dict[str, float] | None = None
    gradients: int | None = None
    version: int = 1
    earlier: tuple[EarlierVersion, ...] = ()

    @property
    def statement(self) -> str:
        """The claim in words."""
        steps = "/".join(dict.fromkeys(map(thousands, self.environments.values())))
        words = {"algorithm": self.algorithm, "peer": self.peer, "bound": self.bound, "where": ", ".join(self.environments)}
        return KINDS[self.kind].statement.format(**words, steps=steps)

    @property
    def contenders(self) -> tuple[str, ...]:
        """Labels of the contenders; the first one is the algorithm that the claim is about."""
        if self.kind == "improvement":
            return ("tuned", "defaults")
        return (self.algorithm,) if self.peer is None else (self.algorithm, self.peer)

    @property
    def trains(self) -> tuple[tuple[str, str], ...]:
        """Pairs of an algorithm's name, as ``sb3-pgx compare`` takes it, and an environment."""
        names = (self.algorithm,) if self.peer is None else (self.algorithm, self.peer)
        return tuple((name, env_id) for env_id in self.environments for name in names)

    @property
    def seeds_needed(self) -> int:
        """Seeds per contender that give the wanted power."""
        p = self.power
        tost = self.kind == "equivalence"
        return max(required_seeds(p.distance[m], p.spread[m], p.wanted, self.confidence, tost) for m in p.spread)

    @property
    def planned_power(self) -> float:
        """Probability of the claimed verdict with the planned seeds, for the measure with the smallest one."""
        p = self.power
        tost = self.kind == "equivalence"
        return min(power_of(len(self.seeds), p.distance[m], p.spread[m], self.confidence, tost) for m in p.spread)


def load_claims(folder: Path = CLAIMS) -> dict[str, tuple[Claim, ...]]:
    """
    Read all claims.

    :param folder: folder of the claims
    :return: claims by subject
    :raises ProtocolError: a file breaks the protocol
    """
    shared = _mapping(folder / SHARED)
    if set(shared) != SHARED_KEYS:
        raise ProtocolError(f"{SHARED}: it must hold exactly {', '.join(sorted(SHARED_KEYS))}")
    claims = {
        path.stem: tuple(_claim(path.stem, name, entry, shared) for name, entry in _mapping(path).items())
        for path in sorted(folder.glob("*.yml"))
        if path.name != SHARED
    }
    _check_each_seed_is_used_once([claim for of_subject in claims.values() for claim in of_subject])
    return claims


def parse_seeds(value: Any) -> tuple[int, ...]:
    """
    Return the seeds of a claim.

    :param value: a number, a range such as ``1000-1019`` with both ends included, or a list of these
    :raises ProtocolError: the value is none of these, or a seed is listed twice or below :data:`FIRST_REPORT_SEED`
    """
    seeds: list[int] = []
    for item in value if isinstance(value, list) else [value]:
        first, dash, last = str(item).partition("-")
        if not (first.isdigit() and (last.isdigit() or not dash)):
            raise ProtocolError(f"seeds {item!r} are neither a number nor a range such as 1000-1019")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ProtocolError("seeds are missing, or one is listed twice")
    if min(seeds) < FIRST_REPORT_SEED:
        raise ProtocolError(f"seed {min(seeds)} is below {FIRST_REPORT_SEED}; reports use seeds from {FIRST_REPORT_SEED} up")
    return tuple(seeds)


def _claim(subject: str, name: str, entry: Any, shared: Mapping[str, Any]) -> Claim:
    try:
        kind = _checked_kind(entry)
        common = {"stopping": shared["stopping"], "failed_runs": shared["failed_runs"], "confidence": shared["confidence"]}
        earlier = tuple(
            EarlierVersion(int(e["version"]), parse_seeds(e["seeds"]), str(e["reason"])) for e in entry.get("earlier", ())
        )
        values = {**common, **entry, "seeds": parse_seeds(entry["seeds"]), "earlier": earlier}
        values["power"] = _power(entry)
        claim = Claim(subject, name, **values)
        _check_plan(claim, kind)
        return claim
    except (ProtocolError, KeyError, TypeError, ValueError) as error:
        sentence = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ProtocolError(f"benchmarks/claims/{subject}.yml, {name!r}: {sentence}") from None


def _checked_kind(entry: Any) -> Kind:
    if not isinstance(entry, dict):
        raise ProtocolError("a claim is a mapping of keys to values")
    name = entry.get("kind")
    if name not in KINDS:
        raise ProtocolError(f"kind is {name!r}; choose one of {', '.join(KINDS)}")
    kind = KINDS[name]
    if missing := sorted((EVERY_CLAIM | kind.needs) - set(entry)):
        raise ProtocolError(f"{', '.join(missing)} missing; a claim of kind {name} states it in advance")
    if unknown := sorted(set(entry) - EVERY_CLAIM - OPTIONAL - kind.needs):
        known = sorted(EVERY_CLAIM | OPTIONAL | kind.needs)
        raise ProtocolError(f"{unknown[0]!r} means nothing for kind {name}{suggestion(unknown[0], known)}")
    return kind


def _power(entry: Mapping[str, Any]) -> PowerCalculation:
    given = entry["power"]
    known = {field.name for field in fields(PowerCalculation)}
    if not isinstance(given, dict) or not set(given) <= known:
        raise ProtocolError(f"power holds {', '.join(sorted(known))}")
    distance = entry["margins"] if entry["kind"] == "equivalence" else given["distance"]
    return PowerCalculation(**{**given, "distance": distance})


def _check_plan(claim: Claim, kind: Kind) -> None:
    if not claim.environments or (len(claim.environments) > 1 and not kind.several_environments):
        raise ProtocolError(f"a claim of kind {claim.kind} is about one environment; got {len(claim.environments)}")
    if not 0.5 < claim.confidence < 1:
        raise ProtocolError(f"confidence is {claim.confidence}; it must be between 0.5 and 1")
    if unknown := set(claim.margins or ()) - {FINAL_RETURN, CURVE_AREA}:
        raise ProtocolError(f"margins know {FINAL_RETURN!r} and {CURVE_AREA!r}, not {sorted(unknown)[0]!r}")
    if [e.version for e in claim.earlier] != list(range(1, claim.version)):
        raise ProtocolError(f"version {claim.version} lists each version before it under 'earlier', with seeds and reason")
    if set(claim.power.spread) != set(claim.power.distance) or not claim.power.spread:
        raise ProtocolError("power gives a spread and a distance (for equivalence a margin) for the same measures")
    if len(claim.seeds) < claim.seeds_needed and not claim.power.limited:
        raise ProtocolError(
            f"{len(claim.seeds)} seeds are planned and the power calculation asks for {claim.seeds_needed}; plan as many, "
            "or say under power: limited why not"
        )


def _check_each_seed_is_used_once(claims: Iterable[Claim]) -> None:
    used: dict[int, str] = {}
    for claim in claims:
        versions: Sequence[tuple[int, tuple[int, ...]]] = [
            (claim.version, claim.seeds),
            *((e.version, e.seeds) for e in claim.earlier),
        ]
        for version, seeds in versions:
            user = f"{claim.subject}.yml, {claim.name!r} (version {version})"
            for seed in seeds:
                if seed in used:
                    raise ProtocolError(f"seed {seed} is used by {used[seed]} and by {user}; each seed is used once")
                used[seed] = user


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ProtocolError(f"{path.name} cannot be read: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ProtocolError(f"{path.name}: it must map names to claims")
    return content
