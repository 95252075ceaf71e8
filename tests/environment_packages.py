"""
Examine the default environments of well-known packages with ``sb3-pgx doctor env``, and write environment_packages.txt.

Packages that are not installed are named as such. Not all of them can be installed together, or with the newest versions of
Gymnasium and MuJoCo.
"""

import sys
from importlib.metadata import version
from pathlib import Path


def row(env_id):
    """Return the line of an environment."""
    from support.environment_packages import ENVIRONMENTS, TRUE_FAULTS, examine, false_faults, missing

    reason = missing(env_id)
    if reason is not None:
        return f"{env_id}: {reason}"
    found = examine(env_id)
    head = f"{env_id} ({ENVIRONMENTS[env_id]} {version(ENVIRONMENTS[env_id])}): "
    if isinstance(found, str):
        return f"{head}not examined: {found}"
    true, wrong = TRUE_FAULTS.get(env_id, {}), false_faults(env_id, found)
    texts = [
        f"{severity} {name}{f' ({true[name]})' if severity == 'fault' and name in true else ''}" for severity, name in found
    ]
    return head + (", ".join(texts) or "nothing") + (f"; FALSE: {', '.join(sorted(wrong))}" if wrong else "")


def main():
    """Examine all of them, and write the file."""
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    from support.environment_packages import ENVIRONMENTS

    rows = []
    for env_id in ENVIRONMENTS:
        rows.append(row(env_id))
        print(rows[-1], flush=True)
    Path(__file__).with_suffix(".txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
