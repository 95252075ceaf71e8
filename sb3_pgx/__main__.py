"""``python -m sb3_pgx``: the command ``sb3-pgx``."""

import sys

from sb3_pgx.cli import main

if __name__ == "__main__":
    sys.exit(main())
