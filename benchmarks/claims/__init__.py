"""What this package claims of its algorithms, and how each claim is measured."""
