"""The algorithms: each file states what differs."""
