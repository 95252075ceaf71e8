"""Checkpoints of runs in several processes: the resumed run ends bit for bit as one that was not interrupted."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.rank_runs import RUNS, digest, interrupted, resumed, trained, watched
from support.ranks import on_ranks

ROOT = Path(__file__).parents[2]
SLOW = ["ACER", "TRPO", "REINFORCE", "memory and masks", "masks", "gSDE", "mixed actions", "frames", "ACER, VecNormalize"]


def test_a_run_continues_on_another_number_of_processes(tmp_path):
    """From one to two with `gather`, from two to one, and from two to two with all ways to share the work."""
    one, two = tmp_path / "one" / "gather" / "PPO", tmp_path / "two" / "gather" / "A2C, VecNormalize"
    shared = [tmp_path / "two" / "all_reduce" / "PPOPenalty", tmp_path / "two" / "gather_rollouts" / "A2C"]
    averaged = shared[0]
    interrupted(str(one))
    checks = [f"resumed:{one}", f"interrupted:{two}", "between_calls", "different_checkpoints"]
    checks += [f"{step}:{path}" for path in shared for step in ("whole", "interrupted", "resumed")]
    first, second = on_ranks(tmp_path, *checks)

    assert first[f"resumed:{one}"] == second[f"resumed:{one}"] == digest(trained(RUNS["PPO"], None))
    assert resumed(str(two)) == digest(trained(RUNS["A2C, VecNormalize"], None))
    for results in (first, second):
        for path in shared:
            assert results[f"resumed:{path}"] == results[f"whole:{path}"]
        expected, continued = results["between_calls"]
        assert continued == expected
        no_file, begun_anew, other_task = results["different_checkpoints"]
        assert no_file.startswith("ValueError: the checkpoint to resume is 'rl_model_0_steps.zip, written at ")
        assert "in process 0 and 'FileNotFoundError: there is no checkpoint " in no_file
        assert "in process 0 and None in process 1" in begun_anew
        assert other_task.startswith(f"ValueError: {tmp_path}") and "CartPoleEnv" in other_task  # each says what it finds
    with pytest.raises(ValueError, match=r'was written by 2 processes, and this run has 1: parallel="all_reduce" cannot be'):
        resumed(str(averaged))


@pytest.mark.slow
def test_every_kind_of_run_continues_on_more_processes(tmp_path):
    paths = [tmp_path / "two" / "gather" / name for name in SLOW]
    for path in paths:
        interrupted(str(path))
    for size in (2, 4):
        kept = {path: path.parents[2] / str(size) / "gather" / path.name for path in paths}
        for path, copy in kept.items():
            shutil.copytree(path, copy)
        checks = [f"resumed:{copy}" for copy in kept.values()]
        for results in on_ranks(tmp_path, *checks, size=size, seconds=600):
            for path, copy in kept.items():
                assert results[f"resumed:{copy}"] == watched(RUNS[path.name]), path.name
    again = [tmp_path / "again" / "gather" / name for name in SLOW]
    on_ranks(tmp_path, *(f"interrupted:{path}" for path in again), seconds=600)
    for path, results in zip(again, on_ranks(tmp_path, *(f"resumed:{p}" for p in again), size=4)[0].items(), strict=True):
        assert results[1] == watched(RUNS[path.name]), path.name


SCRIPT = """
    import os, signal
    from stable_baselines3.common.vec_env import VecNormalize
    from support.rank_runs import digest
    from sb3_pgx import PPO
    from sb3_pgx.checkpoints import CheckpointCallback, newest_checkpoint
    from sb3_pgx.environments import make_vec_env
    from sb3_pgx.parallel import is_first

    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=4, seed=0, parallel="gather"))
    if newest_checkpoint("checkpoints"):
        model = PPO.resume("checkpoints", env, device="cpu")
    else:
        model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=2, seed=0, device="cpu")
    begun = model.num_timesteps
    if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and not is_first():
        one = env.venv.own.envs[0].unwrapped
        steps, step = [], one.step

        def step_or_die(action):
            steps.append(action)
            return os.kill(os.getpid(), signal.SIGKILL) if len(steps) == 60 else step(action)

        one.step = step_or_die
    model.learn(640, callback=CheckpointCallback(1, "checkpoints", keep=2))
    if is_first():
        print("RESULT", begun, digest(model), flush=True)
"""


@pytest.mark.slow
def test_torchrun_starts_a_run_again_whose_process_was_killed(tmp_path):
    """The same command without torchrun, which is not interrupted, has the same result."""
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    environment = {**os.environ, **paths, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

    def result(*launcher):
        folder = tmp_path / str(len(launcher))
        folder.mkdir()
        command = [sys.executable, *launcher, str(tmp_path / "train.py")]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return next(line for line in done.stdout.splitlines() if "RESULT" in line).split("RESULT ")[1], done.stderr

    expected, _ = result()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    found, errors = result(*torchrun)
    assert expected.split(maxsplit=1)[0] == "0" and int(found.split(maxsplit=1)[0]) > 100
    assert found.split(maxsplit=1)[1] == expected.split(maxsplit=1)[1]
    assert "process 0 cannot go on, because process 1 of 2 has ended" in errors
