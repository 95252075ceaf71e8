"""The speed benchmark: this package beside its peers, measured in turn in one run."""
