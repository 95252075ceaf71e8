"""The speed benchmark: this package and its peers, measured in turn in one run."""
