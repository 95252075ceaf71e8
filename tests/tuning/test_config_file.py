"""The best settings as a hyperparameter file."""

import dataclasses

import pytest
import torch as th
import yaml
from torch import nn

from sb3_pgx.experiments.peers import constructor_arguments, prepare
from sb3_pgx.registry import ALGORITHMS
from sb3_pgx.settings.config_file import write_config
from sb3_pgx.settings.configs import RunConfig, config_folder, load_config
from sb3_pgx.tuning.study_report import summarize_study, write_study_report


def read_back(config, folder, env_id="CartPole-v1"):
    write_config(folder / "algo.yml", env_id, config, "a comment\nof two lines")
    return dataclasses.replace(load_config("algo", env_id, folder), source=config.source)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_published_settings_come_back_as_they_were(algorithm, tmp_path):
    for env_id in yaml.safe_load((config_folder() / f"{algorithm}.yml").read_text()):
        config = load_config(algorithm, env_id)
        assert read_back(config, tmp_path, env_id) == config


def test_every_kind_of_setting_comes_back_as_it_was(tmp_path):
    config = RunConfig(
        "somewhere",
        policy="MlpPolicy",
        n_envs=3,
        n_timesteps=1000,
        normalize={"norm_reward": False, "gamma": 0.9},
        env_kwargs={"sutton_barto_reward": True},
        wrappers=(("gymnasium.wrappers.TimeLimit", {"max_episode_steps": 7}), ("gymnasium.wrappers.Autoreset", {})),
        frame_stack=2,
        vec_env="vector",
        hyperparameters={
            "learning_rate": "lin_1.5e-05",
            "gamma": 0.9,
            "ent_coef": 1e-05,
            "target_kl": None,
            "policy_kwargs": {
                "net_arch": {"pi": [8], "vf": []},
                "activation_fn": nn.ReLU,
                "optimizer_class": th.optim.SGD,
                "optimizer_kwargs": {"betas": (0.9, 0.99), "eps": 1e-08},
                "ortho_init": False,
                "log_std_init": -2.0,
            },
        },
    )
    assert read_back(config, tmp_path) == config


def test_what_has_no_name_in_such_a_file_is_refused_and_nothing_is_written(tmp_path):
    class Own(nn.Tanh):
        pass

    with pytest.raises(ValueError, match="Own'> cannot be written in a hyperparameter file"):
        write_config(tmp_path / "a.yml", "X", RunConfig("", hyperparameters={"policy_kwargs": {"activation_fn": Own}}), "")
    assert not list(tmp_path.iterdir())


def test_the_best_trial_is_a_file_that_compare_reads_and_keeps_what_was_not_searched(stub, plan, search, tmp_path):
    (tmp_path / "ppo.yml").write_text(
        "CartPole-v1:\n  n_envs: 4\n  vec_env: vector\n  normalize: true\n  gamma: 0.98\n  n_steps: 32\n  use_sde: false\n"
        '  policy_kwargs: "dict(net_arch=[64], ortho_init=False)"\n'
    )
    p = plan("ppo", trials=2, configs=tmp_path)
    summary, study = search(p)
    write_config(p.config_file, "CartPole-v1", summary.config, "")
    _, config, _ = prepare("ppo", "CartPole-v1", p.config_file.parent)
    assert summary.best.number == 1
    assert dataclasses.replace(config, source=summary.config.source) == summary.config
    gamma = 1 - study.trials[1].params["one_minus_gamma"]
    assert config.hyperparameters["gamma"] == gamma and config.normalize == {"gamma": gamma}
    assert (config.n_envs, config.hyperparameters["use_sde"], config.n_timesteps) == (4, False, p.timesteps)
    assert {spec.config.vec_env for spec in p.specs({}, "a trial")} == {config.vec_env} == {"vector"}
    assert config.hyperparameters["policy_kwargs"]["ortho_init"] is False
    assert config.hyperparameters["policy_kwargs"].keys() == {"ortho_init", "net_arch", "activation_fn"}


@pytest.mark.parametrize("label", ["sb3:ppo", "contrib:trpo"])
def test_a_peer_is_tuned_with_settings_that_its_class_understands(label, stub, plan, search):
    p = plan(label, trials=2)
    summary, _ = search(p)
    write_config(p.config_file, "CartPole-v1", summary.config, "")
    peer, config, _ = prepare(label, "CartPole-v1", p.config_file.parent)
    assert config.source.startswith(p.config_file.name)
    assert config.hyperparameters.keys() == summary.config.hyperparameters.keys()
    assert not any(isinstance(v, str) for v in constructor_arguments(peer.algorithm, config.hyperparameters).values())


def test_the_report_shows_every_trial_and_its_pictures_are_not_empty(stub, plan, search):
    stub.returns = {0: 11.25, 1: 321.75, 2: 17.5}
    stub.errors = {3: "ValueError: <reward> nan"}
    p = plan(trials=4, pruner="median")
    summary, study = search(p)
    written = write_study_report(summarize_study(study, p), study, p)
    page = summary.report.read_text()
    assert all(f">{score}</td>" in page for score in ("11.2", "321.8", "17.5"))
    assert "ValueError: &lt;reward&gt; nan" in page and "finished, starting configuration" in page
    assert all(f"{trial.params['learning_rate']:.4g}</td>" in page for trial in study.trials)
    body = page.split("<body>")[1].split("plotly.js (basic")[0]
    assert p.config_file.read_text().splitlines()[0] in body and "(3 finished trials)" in body and "src=" not in body
    assert 'data-label="gae_lambda"' in body and "one_minus" not in body and "_pow" not in body
    names = ("optimization_history", "param_importances", "slices", "intermediate_values")
    for path in (p.output / f"{name}.png" for name in names):
        assert path in written and path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000


def test_what_another_study_left_in_the_folder_stays(stub, plan, search, tmp_path):
    p = plan(trials=1)
    summary, study = search(p)
    write_study_report(summary, study, p)
    assert plan(trials=2).output == p.output, "the same study goes on there"
    another = r"report.html belongs to another study \(a2c on CartPole-v1: tune-a2c-CartPole-v1\)"
    for other in ({"study_name": "b"}, {"algorithm": "sb3:a2c"}, {"env": "Acrobot-v1"}, {"study_name": "b", "force": True}):
        with pytest.raises(FileExistsError, match=another):
            plan(**other)
    p.report.write_text("a page")
    with pytest.raises(FileExistsError, match="belongs to something else: choose another --output"):
        plan()


def test_a_study_without_a_finished_trial_says_why_and_writes_nothing(stub, plan, search):
    stub.errors = {0: "ValueError: reward nan"}
    summary, study = search(plan(trials=1))
    assert summary.best is None and summary.config is None and "reward nan" in summary.text
    assert write_study_report(summary, study, plan()) == []
