"""What this package claims of its algorithms, as data that are committed first, and how each claim is measured and judged."""
