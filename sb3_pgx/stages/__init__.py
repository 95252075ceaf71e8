"""The five stages of an algorithm: collect, evaluate, estimate, update, report."""
