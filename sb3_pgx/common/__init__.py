"""The pipeline that every algorithm shares, on Stable-Baselines3: collect, evaluate, estimate, update, report."""
