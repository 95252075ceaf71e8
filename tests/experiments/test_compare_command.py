"""The command line: user errors are one sentence before any training, and a comparison writes its report."""

import re
import shlex

import gymnasium
import pytest
import torch as th
from support.packages import without
from support.run_in_process import compare_here

from sb3_pgx.cli import main
from sb3_pgx.core.optional_packages import install_command
from sb3_pgx.experiments.comparison import plan_comparison
from sb3_pgx.experiments.peers import config_of, constructor_arguments, package_versions, prepare, resolve_peer
from sb3_pgx.experiments.runs import RunSpec, execute, failed
from sb3_pgx.settings.configs import RunConfig
from sb3_pgx.settings.environments import check_environment, make_train_env

COMPARE = ["compare", "--env", "CartPole-v1", "--algos", "sb3:a2c", "--timesteps", "300"]


@pytest.fixture
def no_training(monkeypatch, tmp_path):
    """Work in an empty folder, in which training would leave files."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--algos", "reinforc"], "algorithm 'reinforc' is unknown; choose reinforce"),
        (["--algos", "PPO"], "algorithm 'PPO' is unknown; choose ppo"),
        (["--algos", "MADDPG"], "or sb3_pgx.MADDPG in a script (documentation: Several agents, docs/guide/agents.md)"),
        (["--algos", "recurrent_ppo"], "use ppo with `policy: MlpLstmPolicy` in a hyperparameter file"),
        (["--algos", "sb3:pppo"], "did you mean 'sb3:ppo'"),
        (["--algos", "sb3:a2c", "sb3:a2c"], "given twice"),
        (["--env", "CartPol-v1"], "did you mean 'CartPole-v1'"),
        (["--seeds", "0"], "seeds is 0; it must be at least 1"),
        (["--timesteps", "0"], "timesteps is 0; it must be at least 1"),
        (["--eval-episodes", "-1"], "eval-episodes is -1; it must be at least 1"),
        (["--workers", "0"], "workers is 0; it must be at least 1"),
        (["--configs", "nowhere"], "nowhere does not exist"),
        (["--env", "CartPole-v1", "Acrobat-v1"], "did you mean 'Acrobot-v1'"),
        (["--env", "CartPole-v1", "CartPole-v1"], "an environment is given twice"),
        (["--algos", "sbx:pppo"], "did you mean 'sbx:ppo'"),
        (["--seeds", "two"], "seeds two: write a number of seeds, or the seeds themselves separated by commas"),
        (["--seeds", "4,4"], "a seed is given twice: 4, 4"),
        (["--seeds=-1,2"], "seed -1 is out of range: seeds are from 0 to 4294967295"),
        (["--seeds", "4294967296,"], "seed 4294967296 is out of range: seeds are from 0 to 4294967295"),
        (["--threshold", "nan"], "threshold CartPole-v1=nan must be a finite number"),
        (["--seeds", ","], "seeds is 0; it must be at least 1"),
        (
            ["--normalize", "CartPole=0,500"],
            "normalize names 'CartPole', which is not among the compared environments CartPole-v1; did you mean 'CartPole-v1'",
        ),
        (["--normalize", "CartPole-v1=500,0"], "normalize CartPole-v1=500,0: the return that counts as 0 must be below"),
        (["--normalize", "CartPole-v1=0,nan"], "normalize CartPole-v1=0,nan: the return that counts as 0 must be below"),
        (["--normalize", "CartPole-v1=0"], "normalize CartPole-v1=0: write ENVIRONMENT=LOW,HIGH"),
        (["--normalize", "CartPole-v1=0,much"], "normalize CartPole-v1=0,much: 'much' is not a number"),
        (["--normalize", "0,500"], "normalize 0,500: write ENVIRONMENT=LOW,HIGH"),
        (["--vec-env", "arrays"], "vec_env 'arrays' is unknown; choose dummy, subproc, vector, envpool"),
        (["--vec-env", "vector"], "A2C of stable_baselines3 learns from every step; step the environments one by one"),
        (["--threshold", "high"], "threshold high: 'high' is not a number"),
        (
            ["--threshold", "Acrobot-v1=-100"],
            "threshold names 'Acrobot-v1', which is not among the compared environments",
        ),
        (
            ["--env", "CartPole-v1", "Acrobot-v1", "--threshold", "475"],
            "threshold 475 is for one environment; write CartPole-v1=475 for each of them",
        ),
    ],
)
def test_a_user_error_is_one_sentence_before_any_training(no_training, tmp_path, capsys, change, sentence):
    assert main([*COMPARE, *change]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("sb3-pgx: ") and printed.err.count("\n") == 1
    assert sentence in printed.err
    assert list(tmp_path.iterdir()) == []


def test_an_argument_that_the_algorithm_lacks_is_told_before_any_training(no_training, tmp_path, capsys):
    (tmp_path / "a2c.yml").write_text("CartPole-v1: {clip_range: 0.2}\n")
    assert main([*COMPARE, "--configs", str(tmp_path)]) == 2
    assert "a2c.yml: CartPole-v1: A2C has no argument 'clip_range'" in capsys.readouterr().err


def test_a_broken_hyperparameter_file_is_told_with_its_line_before_any_training(no_training, tmp_path, capsys):
    (tmp_path / "a2c.yml").write_text("CartPole-v1:\n  gamma: 0.9\n  n_envs: many\n")
    assert main([*COMPARE, "--configs", str(tmp_path)]) == 2
    assert "a2c.yml, line 3, CartPole-v1, n_envs: 'many' is not a whole number" in capsys.readouterr().err
    (tmp_path / "a2c.yml").write_text("CartPole-v1:\n  gamma: [0.9\n")
    assert main([*COMPARE, "--configs", str(tmp_path)]) == 2
    assert "a2c.yml, line 3 is not valid YAML" in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_refused_and_untouched(no_training, tmp_path, capsys):
    output = tmp_path / "results"
    (output / "runs").mkdir(parents=True)
    (output / "runs/sb3-a2c-seed0.json").write_text("precious")
    assert main([*COMPARE, "--output", str(output)]) == 2
    assert f"{output} is not empty" in capsys.readouterr().err
    assert [p.name for p in output.rglob("*")] == ["runs", "sb3-a2c-seed0.json"]
    assert (output / "runs/sb3-a2c-seed0.json").read_text() == "precious"


def test_a_missing_package_of_the_extra_is_told_with_the_command_that_installs_it(no_training, monkeypatch, capsys):
    without(monkeypatch, "scipy")
    assert main(COMPARE) == 2
    assert capsys.readouterr().err == f"sb3-pgx: comparisons need scipy: {install_command('plots')}\n"


def test_a_missing_peer_package_is_told_with_the_command_that_installs_it(no_training, monkeypatch, capsys):
    without(monkeypatch, "sb3_contrib")
    assert main([*COMPARE, "--algos", "contrib:trpo"]) == 2
    assert "contrib:trpo needs sb3_contrib, which is not installed: pip install sb3_contrib" in capsys.readouterr().err


def test_thresholds_are_those_of_the_environments_unless_others_are_given(tmp_path):
    def thresholds(env, threshold=None):
        return plan_comparison(env, ["sb3:a2c"], 300, output=tmp_path, threshold=threshold).design.thresholds

    assert "--threshold" not in plan_comparison("CartPole-v1", ["a2c"], 300, threshold={}).design.command
    assert thresholds("CartPole-v1") == {"CartPole-v1": 475.0}  # gymnasium registers it with 475
    assert thresholds("CartPole-v1", 100.0) == {"CartPole-v1": 100.0}
    assert thresholds("Pendulum-v1") == {}
    assert thresholds(["CartPole-v1", "Pendulum-v1"], {"Pendulum-v1": -200}) == {"CartPole-v1": 475.0, "Pendulum-v1": -200.0}


@pytest.mark.parametrize(
    "options",
    [
        ["--seeds", "2", "--threshold", "CartPole-v1=475", "Pendulum-v1=-200", "--eval-episodes", "7"],
        ["--seeds", "4,", "--normalize", "CartPole-v1=20.123456789,475", "Pendulum-v1=-1200,-150"],
        ["--seeds", "7,9", "--vec-env", "subproc"],
    ],
)
def test_the_command_in_the_report_is_the_one_that_was_given(tmp_path, options):
    """Giving it again gives the same record and the same report."""
    records, reports = [], []

    def fail_all(specs, *_):
        return [failed(spec, MemoryError("no")) for spec in specs]

    command = ["compare", "--env", "CartPole-v1", "Pendulum-v1", "--algos", "sb3:a2c", "a2c[gamma=0.9]", "--timesteps", "300"]
    for name in ("first", "second"):
        words = shlex.split(re.search("sb3-pgx (compare .*)", reports[0])[1].strip("`")) if reports else [*command, *options]
        assert compare_here([*words, "--output", str(tmp_path / name)], fail_all) == 1
        records.append((tmp_path / name / "comparison.json").read_text())
        reports.append((tmp_path / name / "report.md").read_text())
    assert records[0] == records[1] and reports[0] == reports[1]


def test_peers_get_linear_schedules_as_functions_and_our_classes_as_they_are_written():
    config = RunConfig(source="x.yml", hyperparameters={"learning_rate": "lin_0.1", "clip_range": 0.2, "gamma": 0.9})
    peer = resolve_peer("sb3:ppo")
    assert peer.adapt(config) is config, "records and reports have what the user wrote"
    adapted = constructor_arguments(peer.algorithm, config.hyperparameters)
    assert constructor_arguments(resolve_peer("ppo").algorithm, config.hyperparameters) == config.hyperparameters
    assert [adapted["learning_rate"](progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([0.1, 0.05, 0.0])
    assert (adapted["clip_range"], adapted["gamma"]) == (0.2, 0.9)
    assert resolve_peer("reinforce").adapt(config) is config
    with pytest.raises(ValueError, match=r"x\.yml: learning_rate=.*linear"):
        resolve_peer("sb3:ppo").adapt(RunConfig(source="x.yml", hyperparameters={"learning_rate": "linear"}))


def test_names_of_peers_resolve_to_their_class_and_configuration():
    from stable_baselines3 import PPO

    import sb3_pgx

    peer = resolve_peer("sb3:ppo")
    assert (peer.label, peer.algorithm, peer.config_key) == ("sb3:ppo", PPO, "ppo")
    assert resolve_peer("reinforce_baseline").algorithm is sb3_pgx.REINFORCEBaseline


def test_peers_of_sbx_get_jax_activation_functions_for_those_of_pytorch():
    sbx, linen = pytest.importorskip("sbx"), pytest.importorskip("flax.linen")
    assert resolve_peer("sbx:ppo").algorithm is sbx.PPO and list(package_versions(["ppo", "sb3:ppo", "sbx:ppo"])) == ["sbx-rl"]
    given = {"gamma": 0.9, "policy_kwargs": {"net_arch": [8], "activation_fn": th.nn.ReLU}}
    assert constructor_arguments(sbx.PPO, given)["policy_kwargs"] == {"net_arch": [8], "activation_fn": linen.relu}
    assert constructor_arguments(resolve_peer("sb3:ppo").algorithm, given) == given
    leaky = constructor_arguments(sbx.PPO, {"policy_kwargs": {"activation_fn": th.nn.LeakyReLU}})
    assert leaky["policy_kwargs"]["activation_fn"] is linen.leaky_relu
    with pytest.raises(ValueError, match="activation_fn=Threshold: flax has no function 'threshold'"):
        constructor_arguments(sbx.PPO, {"policy_kwargs": {"activation_fn": th.nn.Threshold}})


@pytest.mark.slow
def test_a_run_of_sbx_trains_on_the_same_budget_as_the_others():
    pytest.importorskip("sbx")
    peer = resolve_peer("sbx:ppo[n_steps=16, batch_size=16, n_epochs=1]")
    config = peer.adapt(RunConfig(source="x", n_envs=2, hyperparameters={"learning_rate": "lin_0.01"}))
    result = execute(RunSpec(peer.label, peer.algorithm, "CartPole-v1", 0, 64, config, curve_points=0, eval_episodes=2))
    assert (result.error, result.steps, len(result.returns)) == (None, 64, 2)


def test_a_name_may_carry_hyperparameters_that_replace_those_of_the_file():
    peer = resolve_peer("ppo[gamma=0.5, learning_rate=1e-3,policy_kwargs={net_arch: [8, 4]}]")
    config = peer.adapt(RunConfig(source="ppo.yml: A-v0", hyperparameters={"gamma": 0.9, "n_steps": 8}))
    assert config.hyperparameters == {"gamma": 0.5, "n_steps": 8, "learning_rate": 1e-3, "policy_kwargs": {"net_arch": [8, 4]}}
    assert config.source == "ppo.yml: A-v0, gamma=0.5, learning_rate=0.001, policy_kwargs={'net_arch': [8, 4]}"
    ours = resolve_peer("ppo[policy_kwargs={net_arch: [8]}, learning_rate=lin_0.1]").adapt(RunConfig(source="x"))
    assert ours.hyperparameters["learning_rate"] == "lin_0.1"  # the colon is no package's
    assert package_versions(["ppo[policy_kwargs={net_arch: [8]}]", "sb3:ppo[policy_kwargs={net_arch: [8]}]"]) == {}
    assert resolve_peer("ppo[target_kl=None]").changes == {"target_kl": None}
    theirs = resolve_peer("sb3:ppo[clip_range=lin_0.2]").adapt(RunConfig(source="x"))
    assert theirs.hyperparameters["clip_range"] == "lin_0.2" and theirs.source == "x, clip_range=lin_0.2"
    for name in ("ppo[gamma=0.5", "ppo[]", "ppo[gamma]", "ppo[=1]", "ppo[gamma=]", "ppo[gamma==1]", "ppo[a=dict(b=1)]"):
        with pytest.raises(ValueError, match=r"write name\[hyperparameter=value"):
            resolve_peer(name)
    with pytest.raises(ValueError, match="no argument 'gama'; did you mean 'gamma'"):
        prepare("ppo[gama=0.5]", "CartPole-v1")


def test_statistics_of_the_reward_have_the_gamma_of_the_variant(tmp_path):
    (tmp_path / "ppo.yml").write_text("A-v0:\n  normalize: true\n  gamma: 0.9\nB-v0:\n  gamma: 0.9\n")
    for name, gamma in (("ppo", 0.9), ("ppo[gamma=0.5]", 0.5), ("ppo[n_steps=8]", 0.9)):
        peer = resolve_peer(name)
        config = peer.adapt(config_of(peer, "A-v0", tmp_path))
        assert config.normalize == {"gamma": gamma} and config.hyperparameters["gamma"] == gamma
        assert peer.adapt(config_of(peer, "B-v0", tmp_path)).normalize is None


def test_runs_of_variants_have_files_of_their_own():
    names = ["ppo", "sb3:ppo", "ppo[gamma=0.5]", "ppo[sde_sample_freq=1]", "ppo[sde_sample_freq=-1]", "ppo[gamma=5e-1]"]
    specs = [RunSpec(name, resolve_peer(name).algorithm, "CartPole-v1", 0, 10, RunConfig(source="x")) for name in names]
    files = [spec.name for spec in specs]
    assert files[:2] == ["ppo-seed0", "sb3-ppo-seed0"] and len(set(files)) == len(names)
    assert all(re.fullmatch(r"[\w-]+", file) for file in files)


def test_a_peer_reads_a_file_of_its_own_where_there_is_one(tmp_path):
    (tmp_path / "trpo.yml").write_text("CartPole-v1:\n  gamma: 0.5\n")
    assert prepare("contrib:trpo", "CartPole-v1", tmp_path)[1].source == "trpo.yml: CartPole-v1"
    (tmp_path / "contrib_trpo.yml").write_text("CartPole-v1:\n  gamma: 0.7\n")
    for name, gamma in (("contrib:trpo", 0.7), ("contrib:trpo[n_steps=8]", 0.7), ("trpo", 0.5)):
        assert prepare(name, "CartPole-v1", tmp_path)[1].hyperparameters["gamma"] == gamma
    (tmp_path / "trpo.yml").write_text("default:\n  gamma: 0.6\n")  # what the peer's file leaves out
    assert prepare("contrib:trpo", "Acrobot-v1", tmp_path)[1].source == "trpo.yml: default"


def test_version_is_that_of_the_package(capsys):
    import sb3_pgx

    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"sb3_pgx {sb3_pgx.__version__}\n"


def test_a_folder_that_cannot_be_made_is_told_before_any_training(no_training, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = ["compare", "--env", "CartPole-v1", "--algos", "sb3:a2c", "--timesteps", "100"]
    assert main([*command, "--output", str(tmp_path / "file" / "inside")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_an_environment_of_ones_own_is_named_with_its_module(tmp_path, monkeypatch):
    code = "import gymnasium; gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=9)"
    (tmp_path / "my_registered_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    spec = check_environment("my_registered_module:Mine-v0", RunConfig(source="")).spec
    assert spec.max_episode_steps == 9
    env = make_train_env(RunConfig(source="", n_envs=2), "my_registered_module:Mine-v0", seed=0)
    assert env.reset().shape == (2, 4)
    gymnasium.registry.pop("Mine-v0")
