"""Comparisons of environments that end their process or hang: the others finish, and the exit status says so."""

import pytest
from support.comparisons import importable  # noqa: F401
from support.run_in_process import compare_here

from sb3_pgx.cli import main
from sb3_pgx.experiments.pool import read_result

pytestmark = pytest.mark.usefixtures("importable", "jax_unseen")
KINDS = ("Sound", "Crashes", "Exits", "Hangs")
ENVIRONMENTS = [f"support.dying_environments:{kind}-v0" for kind in KINDS]
SCALES = [f"{env}=0,10" for env in ENVIRONMENTS]


def comparison(folder, *environments):
    command = ["compare", "--env", *environments, "--algos", "sb3:a2c", "--seeds", "1", "--timesteps", "400"]
    return [*command, "--eval-episodes", "2", "--output", str(folder)]


@pytest.mark.slow
def test_a_crash_an_exit_and_a_hanging_step_cost_only_their_own_run(tmp_path, capsys):
    command = [*comparison(tmp_path, *ENVIRONMENTS), "--normalize", *SCALES, "--timeout-per-run", "90"]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "[4/4]" in printed and "3 runs failed" in printed and (tmp_path / "report.html").exists()
    sound, *others = (read_result(next(tmp_path.glob(f"runs/*{kind}*/*.json"))) for kind in KINDS)
    assert sound.error is None and len(sound.returns) == 2
    for result, sentence in zip(others, ("SIGSEGV", "exit code 0", "longer than 90 s"), strict=True):
        assert sentence in result.error
    assert "in die" in others[0].traceback and "in die" in others[2].traceback
    assert main(command) == 1
    assert "3 of these failed; --retry-failed repeats them" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "sentence"), [("Crashes", "was ended by SIGSEGV"), ("Exits", "has ended with exit code 0")])
def test_an_environment_that_random_actions_end_is_named_before_any_training(tmp_path, capsys, kind, sentence):
    dying = f"support.dying_environments:{kind}-v0"
    assert main(comparison(tmp_path / "out", ENVIRONMENTS[0], dying)) == 2
    printed = capsys.readouterr().err
    assert f"random actions in {dying} have no return: its process {sentence}" in printed
    assert f"--normalize {dying}=LOW,HIGH" in printed and not (tmp_path / "out").exists()


def test_random_actions_that_hang_are_given_up_in_time(tmp_path, capsys):
    hanging = [*comparison(tmp_path / "out", ENVIRONMENTS[0], ENVIRONMENTS[3]), "--timeout-per-run", "2"]
    assert main(hanging) == 2
    assert (
        f"random actions in {ENVIRONMENTS[3]} have no return: the process was ended because it took longer than 2 s"
        in capsys.readouterr().err
    )


def test_ctrl_c_says_what_is_kept_and_how_to_resume(tmp_path):
    def interrupted(specs, *_):
        raise KeyboardInterrupt

    resumed = f"0 of 1 run are kept in {tmp_path}; to resume, run\n  sb3-pgx compare --env "
    with pytest.raises(KeyboardInterrupt) as interruption:
        compare_here(comparison(tmp_path, ENVIRONMENTS[0]), interrupted)
    assert str(interruption.value).startswith(resumed) and str(interruption.value).endswith(f" --output {tmp_path}")
