"""What processes must say if their arguments make no sense or differ."""


def check_refusals(refusals):
    assert "n_envs=3 environments cannot be shared among 2 processes" in refusals["n_envs"]
    assert "parallel='gathered' is unknown" in refusals["parallel"]
    assert "observation_space is Box(" in refusals["environments"] and "in process 1" in refusals["environments"]
    assert refusals["seed"].startswith("ValueError: seed is 0 in process 0 and 1 in process 1: all processes of a run must")
    assert refusals["ent_coef"].startswith("ValueError: ent_coef is 0.0 in process 0 and 0.01 in process 1")
    assert refusals["total_timesteps"].startswith("ValueError: total_timesteps is 320 in process 0 and 328 in process 1")
