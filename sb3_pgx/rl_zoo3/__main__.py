"""``python -m sb3_pgx.rl_zoo3 train``, ``enjoy``, ``record_video`` and ``plot_train``: the commands of ``sb3-pgx``."""

import argparse
import sys

from sb3_pgx.rl_zoo3.invalid_request import InvalidRequest, RunFailed
from sb3_pgx.rl_zoo3.plugin import COMMANDS, run_command


def main() -> int:
    """Run a command. Return the exit status: 0, 1 if the run failed, or 2 for a user error."""
    parser = argparse.ArgumentParser(
        "python -m sb3_pgx.rl_zoo3", description="rl_zoo3's commands with this package's algorithms."
    )
    names = [name.replace("-", "_") for name in COMMANDS]
    parser.add_argument("command", choices=names, help="put -h after it for its own help")
    name = parser.parse_args(sys.argv[1:2]).command
    try:
        run_command(name.replace("_", "-"), sys.argv[2:])
    except (InvalidRequest, RunFailed) as error:
        print(f"sb3_pgx.rl_zoo3: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidRequest) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
