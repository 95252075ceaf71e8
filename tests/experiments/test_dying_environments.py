"""Comparisons of environments that end their process or hang: the others finish, and the exit status says so."""

import pytest
from support.comparisons import importable  # noqa: F401
from support.run_in_process import compare_here

from sb3_pgx.cli import main
from sb3_pgx.experiments.comparison import plan_comparison
from sb3_pgx.experiments.pool import read_result

pytestmark = pytest.mark.usefixtures("importable", "jax_unseen")
KINDS = ("Sound", "Crashes", "Exits", "Hangs")
ENVIRONMENTS = [f"support.dying_environments:{kind}-v0" for kind in KINDS]


def comparison(folder, *environments):
    command = ["compare", "--env", *environments, "--algos", "sb3:a2c", "--seeds", "1", "--timesteps", "400"]
    return [*command, "--eval-episodes", "2", "--output", str(folder)]


@pytest.mark.slow
def test_a_crash_an_exit_and_a_hanging_step_cost_only_their_own_run(tmp_path, capsys):
    command = [*comparison(tmp_path, *ENVIRONMENTS), "--timeout-per-run", "90"]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "[4/4]" in printed and "3 runs failed" in printed and (tmp_path / "report.html").exists()
    assert "The worst run counts as 0 there" in (tmp_path / "report.md").read_text()
    sound, *others = (read_result(next(tmp_path.glob(f"runs/*{kind}*/*.json"))) for kind in KINDS)
    assert sound.error is None and len(sound.returns) == 2
    for result, sentence in zip(others, ("SIGSEGV", "exit code 0", "longer than 90 s"), strict=True):
        assert sentence in result.error
    assert "in die" in others[0].traceback and "in die" in others[2].traceback
    assert main(command) == 1
    assert "3 of these failed; --retry-failed repeats them" in capsys.readouterr().out


@pytest.mark.slow
def test_random_actions_that_end_their_process_or_hang_leave_the_other_environments_their_scale(tmp_path):
    plan = plan_comparison(ENVIRONMENTS, ["sb3:a2c"], 400, 1, tmp_path / "out", timeout_per_run=2.0)
    assert plan.design.random_returns == {ENVIRONMENTS[0]: pytest.approx(10.0, abs=1.0)}
    sentences = plan.design.without_scale()
    causes = ("was ended by SIGSEGV", "has ended with exit code 0", "was ended because it took longer than 2 s")
    for env, cause, sentence in zip(ENVIRONMENTS[1:], causes, sentences, strict=True):
        assert sentence.startswith(f"Random actions in {env} have no return: ") and cause in sentence
        assert f"--normalize {env}=LOW,HIGH" in sentence
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_what_is_kept_and_how_to_resume(tmp_path):
    def interrupted(specs, *_):
        raise KeyboardInterrupt

    resumed = f"0 of 1 run are kept in {tmp_path}; to resume, run\n  sb3-pgx compare --env "
    with pytest.raises(KeyboardInterrupt) as interruption:
        compare_here(comparison(tmp_path, ENVIRONMENTS[0]), interrupted)
    assert str(interruption.value).startswith(resumed) and str(interruption.value).endswith(f" --output {tmp_path}")
