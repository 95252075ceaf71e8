"""rl_zoo3's commands with our algorithms: what they train, find, draw and refuse."""

import json
import os
import re
import resource
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3
import torch as th
import yaml
from filelock import FileLock
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import load_results
from support.packages import without

from sb3_pgx import A2C, NPG, PPO, PPOPenalty
from sb3_pgx.cli import main
from sb3_pgx.core.optional_packages import install_command
from sb3_pgx.environments import make_vec_env as make_arrays
from sb3_pgx.registry import EVERY_ALGORITHM
from sb3_pgx.rl_zoo3 import plugin
from sb3_pgx.settings.configs import load_config

if find_spec("rl_zoo3") is None:  # not importorskip: imported, it replaces Gymnasium's TimeLimit for every other test
    pytest.skip("rl_zoo3 is not installed", allow_module_level=True)

SMALL = "-n 64 --eval-freq -1 --seed 0 --device cpu -params n_envs:2 n_steps:16 batch_size:32".split()
SEARCH = "-optimize --n-trials 1 --n-evaluations 1 --no-optim-plots".split()
MASKED = "-n .128k --eval-freq 64 --eval-episodes 3 --seed 0 --device cpu".split()
SHORT = "--eval-freq 64 --eval-episodes 1 --seed 0 --device cpu"
RESUMED = "--resume --eval-freq -1 --seed 0 --device cpu -params n_envs:2 n_steps:8"
ARRAYS = """
Pendulum-v1:
  vec_env: vector
  n_envs: 2
  n_timesteps: 128
  policy: MlpPolicy
  n_steps: 32
  batch_size: 64
  n_epochs: 2
  normalize: true
  env_kwargs: {max_episode_steps: 20}
  env_wrapper: gymnasium.wrappers.TimeAwareObservation
"""
STRICT = """
import gymnasium as gym
import numpy as np
from support.masked_environments import Masked

class Strict(Masked):  # raises on an invalid action
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.full((16, 16, 3), self.t, np.uint8)

gym.register("Strict-v0", Strict)
"""
COMMANDS = {
    "trained": ["train", "--algo", "ppo_penalty", "--env", "CartPole-v1", *SMALL, "n_epochs:1"],
    "played": "enjoy --algo ppo_penalty --env CartPole-v1 --no-render -n 400 --device cpu".split(),
    "drawn": "plot-train --algo ppo_penalty --env CartPole-v1 -w 2".split(),
    "drawn again": "plot-train --algo ppo_penalty --env CartPole-v1 -w 2".split(),
    "SB3's": ["train", "--algo", "sb3_ppo", "--env", "CartPole-v1", *SMALL, "n_epochs:1"],
    "SB3's played": "-m sb3_pgx.rl_zoo3 enjoy --algo sb3_ppo --env CartPole-v1 --no-render -n 5 --device cpu".split(),
    "cosine": ["train", "--algo", "npg", "--env", "CartPole-v1", "-conf", "cosine.yml", *SMALL],
    "whole episodes": "train --algo reinforce --env CartPole-v1 -n 40 --eval-freq -1 --seed 0 --device cpu".split(),
    "filmed": "record-video --algo reinforce --env CartPole-v1 -n 2".split(),
    "arrays": f"train --algo ppo --env Pendulum-v1 -conf arrays.yml {SHORT}".split(),
    "one by one": f"train --algo ppo --env Pendulum-v1 -conf arrays.yml --vec-env dummy {SHORT}".split(),
    "SB3's arrays": f"train --algo sb3_ppo --env Pendulum-v1 -conf arrays.yml --vec-env vector {SHORT}".split(),
    "envpool": f"train --algo ppo --env Pendulum-v1 -conf plain.yml --vec-env envpool {SHORT}".split(),
    "arrays played": "enjoy --algo ppo --env Pendulum-v1 --exp-id 1 --no-render -n 201 --device cpu".split(),
    "arrays drawn": "plot-train --algo ppo --env Pendulum-v1 -w 2".split(),
    "masked": [*"train --algo ppo --env strict:Strict-v0 -conf strict.yml".split(), *MASKED],
    "masked, played": "enjoy --algo ppo --env strict:Strict-v0 --no-render -n 71 --stochastic --device cpu".split(),
    "masked, filmed": "record-video --algo ppo --env Strict-v0 --gym-packages strict -n 30 --stochastic".split(),
    "masked, drawn": "plot-train --algo ppo --env strict:Strict-v0 -w 2".split(),
    "masked, searched": [*"train --algo ppo --env Strict-v0 --gym-packages strict -conf strict.yml".split(), *MASKED, *SEARCH],
    "searched": ["train", "--algo", "ppo", *SMALL[:-4], *SEARCH],
    "with checkpoints": f"train --algo a2c --env CartPole-v1 -n 80 --save-freq 16 {RESUMED}".split(),
    "resumed": f"train --algo a2c --env CartPole-v1 -n 160 --save-freq 16 {RESUMED}".split(),
    "help": ["train", "--help"],
    "nothing asked for": ["plot-train"],
}
REFUSED = {
    "train --algo ppoo": r"algorithm 'ppoo' is unknown; did you mean 'ppo'",
    "train --algo PPO": r"algorithm 'PPO' is unknown; did you mean 'ppo'",
    "train --algo maddpg": r"maddpg learns in .* of several agents.*use .* or sb3_pgx\.MADDPG .*docs/guide/agents\.md",
    "train --algo maskable_ppo": r"use ppo, which uses .* masks by itself .*docs/algorithms/maskable_ppo\.md",
    "train --algo ppo --envv CartPole-v1": r"unrecognized arguments: --envv CartPole-v1; did you mean '--env'",
    "train --algo sb3:ppo": r"algorithm 'sb3:ppo' is unknown; did you mean 'sb3_ppo'",
    "train --env CartPol-v1": r"environment 'CartPol-v1' is unknown: did you mean 'CartPole-v1'",
    "train --env some_package:Env-v0": r"environment some_package:Env-v0: module some_package cannot be imported",
    "train --env strict:Strick-v0": r"environment 'strict:Strick-v0' is unknown: did you mean 'strict:Strict-v0'",
    "plot-train --algo ppo_penalty --env CartPol-v1": r"no run of ppo_penalty in 'CartPol-v1'; did you mean 'CartPole-v1'",
    "train --gym-packages no_such_package": r"No module named 'no_such_package'",
    "train --algo ppo --env CartPole-v1 -conf broken.yml": r"broken\.yml, line 3 is not valid YAML",
    "train --algo ppo --env CartPole-v1 -conf text.yml": r"text\.yml, line 3, CartPole-v1, learning_rate: .* write 0\.001",
    "train --algo ppo --env Acrobot-v1 -conf text.yml": r"text\.yml has no settings for Acrobot-v1: .* Acrobot-v1 or default",
    "train --algo ppo --trained-agent nowhere.zip": r"--trained-agent nowhere\.zip: there is no such file",
    "train --algo ppo -params gama:0.9": r"ppo\.yml: CartPole-v1: PPO has no argument 'gama'; did you mean .*'gamma'",
    "train --algo ppo -params gamma:2": r"gamma=2 is outside \[0, 1\]",
    "train --algo ppo -params learning_rate:lin_0.1": r"-params learning_rate:lin_0\.1: write name:value, .* quotes",
    "train --algo ppo --vec-env arrays": r"(?<=sb3-pgx: )vec_env 'arrays' is unknown; choose dummy, subproc, vector, envpool",
    "train --algo sb3_ppo --env CartPole-v1 --vec-env vector": r"PPO of stable_baselines3 learns from every step; .*dummy",
    "train --algo acer --env CartPole-v1 --vec-env vector": r"ACER replays whole segments; .*vec_env: dummy",
    "train --algo a2c --resume": r"--resume needs checkpoints: add --save-freq 10000",
    "train --algo sb3_ppo --resume --save-freq 64": r"--resume: sb3_ppo writes no checkpoints that can be resumed",
    "enjoy --algo acer --env CartPole-v1 --no-render": r"no run of acer in logs: train one with `sb3-pgx train --algo acer`",
    "enjoy --algo ppo_penalty --env Acrobot-v1 --no-render": r"No model found for ppo_penalty on Acrobot-v1",
    "enjoy --algo ppo_penalty --env Arcade/Pole-v0 --no-render": r"No model found for ppo_penalty on Arcade-Pole-v0",
    "plot-train --algo ppo_penalty --env CartPole-v1 -w 100000": r"nothing to draw: .*--episode-window",
    "enjoy --algo ppo_penalty --env CartPole-v1": r"there is no display: pass --no-render",
    "-m sb3_pgx.rl_zoo3 plot_train --algo nqg --env CartPole-v1": r"algorithm 'nqg' is unknown; did you mean .*'npg'",
}
# The commands of the documentation, shortened.
DOCUMENTED = [
    re.sub(r"(-n|-w) \d+", lambda m: {"-n": "-n 200", "-w": "-w 2"}[m[1]], line).split()[1:]
    for line in (Path(__file__).parents[2] / "docs" / "guide" / "training.md").read_text(encoding="utf-8").splitlines()
    if line.startswith(tuple(f"sb3-pgx {name} " for name in plugin.COMMANDS))
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, worker_id):
    """A folder in which all commands have run, and their output. They run once for all processes of the suite."""
    if worker_id == "master":
        return run_all(tmp_path_factory.mktemp("zoo"))
    folder = tmp_path_factory.getbasetemp().parent / "zoo"
    with FileLock(f"{folder}.lock"):
        if (answer := Path(f"{folder}.json")).exists():
            return {"folder": folder, **json.loads(answer.read_text())}
        folder.mkdir()
        result = run_all(folder)
        answer.write_text(json.dumps({name: value for name, value in result.items() if name != "folder"}))
        return result


def run_all(folder):
    """Run all commands in one process, in this folder."""
    (folder / "cosine.yml").write_text(
        "CartPole-v1:\n  n_timesteps: 64\n  policy: MlpPolicy\n  learning_rate: cos_0.01_0.001\n  n_critic_updates: 1\n"
    )
    (folder / "arrays.yml").write_text(ARRAYS)
    plain = "n_envs: 2, n_timesteps: 128, policy: MlpPolicy, n_steps: 32, batch_size: 64, n_epochs: 2"
    (folder / "plain.yml").write_text(f"Pendulum-v1: {{{plain}}}\n")
    (folder / "strict.yml").write_text(f"strict:Strict-v0: {{{plain}}}\n")
    (folder / "strict.py").write_text(STRICT)
    (folder / "broken.yml").write_text("CartPole-v1:\n  gamma: [0.9\n")
    (folder / "text.yml").write_text("CartPole-v1:\n  n_timesteps: 64\n  learning_rate: 1e-3\n")
    (folder / "arcade.py").write_text("def register_envs():\n    print('arcade registers its environments')\n")
    (folder / "arcade-1.0.dist-info").mkdir()
    (folder / "arcade-1.0.dist-info" / "entry_points.txt").write_text("[gymnasium.envs]\nArcade = arcade:register_envs\n")
    commands = [*COMMANDS.values(), *(command.split() for command in REFUSED), *DOCUMENTED]
    tests = Path(__file__).parents[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {
        "MPLBACKEND": "Agg",
        "SDL_VIDEODRIVER": "dummy",
        "PYTHONPATH": os.pathsep.join([str(folder), str(tests), str(tests.parent), *sys.path]),
    }
    process = subprocess.run(
        [sys.executable, tests / "support" / "rl_zoo3_process.py"],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    answer = json.loads(process.stdout)
    names = [*COMMANDS, *REFUSED, *map(" ".join, DOCUMENTED)]
    return {"folder": folder, **answer, "results": dict(zip(names, answer["results"], strict=True))}


def printed(zoo, name):
    result = zoo["results"][name]
    assert result["status"] == 0, result["out"] + result["err"]
    return result["out"]


def test_the_trained_model_is_ours_with_our_files_settings_and_those_of_the_command_line(zoo):
    assert f"zoo_configs{os.sep}ppo_penalty.yml" in printed(zoo, "trained")
    run = zoo["folder"] / "logs" / "ppo_penalty" / "CartPole-v1_1"
    model = PPOPenalty.load(run / "CartPole-v1.zip", device="cpu")
    published = load_config("ppo_penalty", "CartPole-v1").hyperparameters
    changed = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
    names = published.keys() - {"learning_rate", "kl_coef"}  # saved as the schedule that it stands for; adapts
    assert {name: getattr(model, name) for name in names} == {name: {**published, **changed}[name] for name in names}
    assert (model.num_timesteps, model._n_updates, model.lr_schedule(0.5)) == (64, 2, 0.0005)
    saved = yaml.unsafe_load((run / "CartPole-v1" / "config.yml").read_text())
    assert saved["learning_rate"] == published["learning_rate"] and saved["n_steps"] == 16
    assert (run / "0.monitor.csv").exists() and (run / "1.monitor.csv").exists()


def test_a_run_is_resumed_from_its_newest_checkpoint(zoo):
    """The first call finds none, and begins a run. The second one has more steps to take."""
    assert "Resuming" not in printed(zoo, "with checkpoints")
    newest = os.path.join("logs", "a2c", "CartPole-v1_1", "rl_model_80_steps.zip")
    assert f"Resuming {newest}" in printed(zoo, "resumed")
    (folder,) = (zoo["folder"] / "logs" / "a2c").iterdir()
    steps = [int(path.stem.split("_")[2]) for path in folder.glob("rl_model_*.zip")]
    assert sorted(steps) == [16 * i for i in range(1, 11)]
    assert A2C.load(folder / "CartPole-v1.zip", device="cpu").num_timesteps == 160


def test_enjoy_finds_the_run_and_plays_its_policy(zoo):
    model = PPOPenalty.load(zoo["folder"] / "logs" / "ppo_penalty" / "CartPole-v1_1" / "CartPole-v1.zip", device="cpu")
    env = make_vec_env("CartPole-v1", n_envs=1, seed=0)
    observation, episodes, length = env.reset(), [], 0
    for _ in range(400):
        observation, _, dones, _ = env.step(model.predict(observation, deterministic=True)[0])
        length += 1
        if dones[0]:
            episodes, length = [*episodes, length], 0
    env.close()
    told = [float(reward) for reward in re.findall(r"Episode Reward: ([\d.]+)", printed(zoo, "played"))]
    assert told == episodes and len(episodes) > 1


def test_without_a_display_the_picture_is_kept_and_no_other_replaced(zoo):
    for name, file in (("drawn", "training_episodic_reward_1.png"), ("drawn again", "training_episodic_reward_2.png")):
        assert file in printed(zoo, name)
        assert (zoo["folder"] / file).read_bytes().startswith(b"\x89PNG")


def test_sb3s_and_contribs_algorithms_stay_and_read_rl_zoo3s_files(zoo):
    ours = {name: f"sb3_pgx.{algorithm.__name__}" for name, algorithm in EVERY_ALGORITHM.items()}
    assert {name: zoo["tables"][name] for name in ours} == ours
    theirs = {"sb3_ppo": "stable_baselines3.PPO", "sb3_a2c": "stable_baselines3.A2C", "contrib_trpo": "sb3_contrib.TRPO"}
    assert {name: zoo["tables"][name] for name in theirs} == theirs
    assert zoo["tables"]["sb3_sac"] == "stable_baselines3.SAC" and zoo["tables"]["ppo_lstm"] == "sb3_contrib.RecurrentPPO"
    assert os.path.join("rl_zoo3", "hyperparams", "ppo.yml") in printed(zoo, "SB3's")
    saved = zoo["folder"] / "logs" / "sb3_ppo" / "CartPole-v1_1" / "CartPole-v1.zip"
    assert stable_baselines3.PPO.load(saved, device="cpu").num_timesteps == 64
    assert str(saved.relative_to(zoo["folder"])) in printed(zoo, "SB3's played")


def test_a_schedule_that_rl_zoo3_does_not_know_reaches_the_algorithm(zoo):
    printed(zoo, "cosine")
    model = NPG.load(zoo["folder"] / "logs" / "npg" / "CartPole-v1_1" / "CartPole-v1.zip", device="cpu")
    np.testing.assert_allclose([model.lr_schedule(p) for p in (1.0, 0.5, 0.0)], [0.01, 0.0055, 0.001])


def test_arrays_of_the_file_and_of_the_command_line_train_what_single_environments_do(zoo):
    runs = zoo["folder"] / "logs"
    for algo, name, numbers in (("ppo", "one by one", (1, 2)), ("sb3_ppo", "SB3's arrays", (1,))):
        printed(zoo, name)
        saved = [yaml.unsafe_load((runs / algo / f"Pendulum-v1_{i}/Pendulum-v1/config.yml").read_text()) for i in numbers]
        assert [dict(settings)["vec_env"] for settings in saved] == ["vector", "dummy"][: len(numbers)]
    models = [PPO.load(runs / "ppo" / f"Pendulum-v1_{i}" / "Pendulum-v1.zip", device="cpu") for i in (1, 2)]
    ours, expected = (th.nn.utils.parameters_to_vector(model.policy.parameters()) for model in models)
    assert th.equal(ours, expected) and models[0].num_timesteps == 128
    evaluations = [np.load(runs / "ppo" / f"Pendulum-v1_{i}" / "evaluations.npz")["results"] for i in (1, 2)]
    assert np.array_equal(*evaluations) and evaluations[0].shape == (2, 1)
    episodes = load_results(str(runs / "ppo" / "Pendulum-v1_1"))
    assert (episodes["l"] == 20).all() and len(episodes) == 6
    assert [len(list((runs / "ppo" / f"Pendulum-v1_{i}").glob("*.monitor.csv"))) for i in (1, 2)] == [1, 2]
    assert "training_episodic_reward" in printed(zoo, "arrays drawn")
    assert re.search(r"Episode Length 20", printed(zoo, "arrays played"))


@pytest.mark.skipif(find_spec("envpool") is None, reason="needs EnvPool")
def test_the_seed_reaches_envpool(zoo):
    printed(zoo, "envpool")
    trained = PPO.load(zoo["folder"] / "logs" / "ppo" / "Pendulum-v1_3" / "Pendulum-v1.zip", device="cpu")
    env = make_arrays("Pendulum-v1", 2, seed=0, vector="envpool")
    expected = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=2, seed=0, device="cpu").learn(128)
    ours, theirs = (th.nn.utils.parameters_to_vector(model.policy.parameters()) for model in (trained, expected))
    assert th.equal(ours, theirs)


def test_a_policy_is_filmed_in_one_environment_that_its_algorithm_could_not_train_in(zoo):
    printed(zoo, "filmed")
    (video,) = (zoo["folder"] / "logs" / "reinforce" / "CartPole-v1_1" / "videos").iterdir()
    assert video.suffix == ".mp4" and video.stat().st_size > 500


def test_masked_environments_are_evaluated_played_filmed_and_searched_with_their_masks(zoo):
    """These environments raise on an invalid action, and an untrained policy without masks takes one within a few steps."""
    for name in ("masked", "masked, played", "masked, filmed", "masked, drawn", "masked, searched"):
        assert "got no action_masks" not in printed(zoo, name) + zoo["results"][name]["err"]
    run = zoo["folder"] / "logs" / "ppo" / "Strict-v0_1"
    evaluated = np.load(run / "evaluations.npz")
    assert evaluated["results"].shape == (2, 3) and (evaluated["ep_lengths"] == 7).all()
    assert printed(zoo, "masked, played").count("Episode Length 7") == 10
    (video,) = (run / "videos").iterdir()
    assert video.suffix == ".mp4"
    (report,) = (zoo["folder"] / "logs" / "ppo").glob("report_Strict-v0_*.csv")
    assert "COMPLETE" in report.read_text()


def test_rl_zoo3s_search_asks_our_search_space(zoo):
    printed(zoo, "searched")
    (report,) = (zoo["folder"] / "logs" / "ppo").glob("report_CartPole-v1_1-trials-64*.csv")
    header = report.read_text().splitlines()[0].split(",")
    assert {"params_clip_range_schedule", "params_one_minus_gamma"} <= set(header)  # rl_zoo3's has no such schedule


def test_rl_zoo3_loads_a_trial_with_the_arguments_that_it_trained_with(zoo):
    assert load_config("npg", "Acrobot-v1").n_envs == 2 and len(zoo["trials"]) == 10
    assert all(loaded == sampled for sampled, loaded in zoo["trials"])


def test_help_says_what_is_ours_before_rl_zoo3s_own(zoo):
    ours, _, theirs = printed(zoo, "help").partition("usage: sb3-pgx train")
    assert all(name in ours for name in [*EVERY_ALGORITHM, "sb3_ppo", "contrib_trpo"]) and "--n-timesteps" in theirs


def test_the_documented_commands_run_and_write_what_is_said(zoo):
    train, enjoy, film, _ = (printed(zoo, " ".join(command)) for command in DOCUMENTED)
    run = zoo["folder"] / "logs" / "ppo_penalty" / "CartPole-v1_2"
    assert f"Saving to {run.relative_to(zoo['folder'])}" in train and f"{run.name}/CartPole-v1.zip" in enjoy
    assert {"CartPole-v1.zip", "0.monitor.csv", "CartPole-v1", "videos"} <= {path.name for path in run.iterdir()}
    assert {path.name for path in (run / "CartPole-v1").iterdir()} == {"args.yml", "config.yml", "command.txt"}
    assert "video ready" in film


def test_an_option_that_rl_zoo3_needs_is_asked_for_by_rl_zoo3(zoo):
    assert "arguments are required: -a/--algo" in zoo["results"]["nothing asked for"]["err"]


@pytest.mark.parametrize("command", REFUSED)
def test_what_cannot_be_done_is_one_sentence(zoo, command):
    result = zoo["results"][command]
    assert result["status"] == 2
    (line,) = result["err"].splitlines()
    assert re.fullmatch(rf"(sb3-pgx|sb3_pgx\.rl_zoo3): .*{REFUSED[command]}.*", line)


def test_a_model_is_played_in_an_environment_that_an_installed_package_registers(zoo):
    result = zoo["results"]["enjoy --algo ppo_penalty --env Arcade/Pole-v0 --no-render"]
    assert "arcade registers its environments" in result["out"]


def test_nothing_is_registered_before_a_command_runs(zoo):
    assert "sb3_pgx" in zoo["imported"] and not {"rl_zoo3", "optuna", "seaborn"} & set(zoo["imported"])


def test_rl_zoo3_reads_every_published_entry_as_we_do(zoo):
    assert len(zoo["entries"]) > 8 * 12
    for name, read in zoo["entries"].items():
        algorithm, env_id = name.split(":")
        config = load_config(algorithm, env_id)
        assert (read["n_envs"], read["n_timesteps"]) == (config.n_envs, config.n_timesteps), name
        assert read["normalize"] == config.normalize, name
        assert read["hyperparameters"] == repr(sorted({**config.hyperparameters, "policy": config.policy}.items())), name


def test_a_missing_extra_is_told_with_the_command_that_installs_it(monkeypatch, capsys):
    without(monkeypatch, "rl_zoo3", but_with=["requests", "seaborn"])
    assert main(["train", "--algo", "ppo"]) == 2
    assert capsys.readouterr().err == f"sb3-pgx: rl_zoo3's commands need rl_zoo3: {install_command('zoo')}\n"


@pytest.mark.slow
def test_two_trainings_that_start_together_write_into_folders_of_their_own(tmp_path):
    command = [sys.executable, "-m", "sb3_pgx", *"train --algo a2c --env CartPole-v1 -n 80 --eval-freq -1 --seed 0".split()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    both = [subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    for number in (1, 2):
        assert (tmp_path / "logs" / "a2c" / f"CartPole-v1_{number}" / "CartPole-v1.zip").exists()


ENDLESS = """
import gymnasium as gym
import numpy as np

class Endless(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}

gym.register("Endless-v0", Endless)
"""


LAMPS = """
import gymnasium as gym
import numpy as np

class Lamps(gym.Env):
    observation_space, action_space = gym.spaces.Dict(a=gym.spaces.Box(-1, 1, (1,))), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return {"a": np.zeros(1, np.float32)}, {}

    def step(self, action):
        return {"a": np.zeros(1, np.float32)}, 1.0, True, False, {}

gym.register("Lamps-v0", Lamps)
"""


def failing_run(folder, options, file_size=resource.RLIM_INFINITY):
    """Train a few steps in a process none of whose files may grow beyond a size; return its exit status and its errors."""
    command = [sys.executable, "-m", "sb3_pgx", "train", "--algo", "a2c", "-n", "80", "--seed", "0", *options.split()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    ended = subprocess.run(command, cwd=folder, env=environment, preexec_fn=limit, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "file_size, options, status, sentence",
    [
        (10, "--eval-freq -1", 2, "logs/a2c/CartPole-v1_1 cannot be written: File too large"),
        (20_000, "--eval-freq -1", 1, "CartPole-v1.zip cannot be written: File too large. The run ended after 80 of 80 steps"),
        (20_000, "--eval-freq 16 --eval-episodes 1", 1, "best_model.zip cannot be written: File too large. The run ended"),
        (1_000, "--eval-freq -1 --tensorboard-log tb", 2, "cannot be written: File too large"),
        (
            20_000,
            "--algo sb3_a2c --eval-freq -1",
            1,
            "CartPole-v1.zip cannot be written: File too large. The run ended after 80",
        ),
        (
            20_000,
            "--algo sb3_a2c --eval-freq 16 --eval-episodes 1",
            1,
            "best_model.zip cannot be written: File too large. The",
        ),
        (
            20_000,
            "--algo sb3_a2c --eval-freq -1 --save-freq 16",
            1,
            "rl_model_16_steps.zip cannot be written: File too large.",
        ),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_whole_files(file_size, options, status, sentence, tmp_path):
    returned, said = failing_run(tmp_path, f"--env CartPole-v1 {options}", file_size)
    assert returned == status and said.startswith("sb3-pgx: ") and sentence in said
    assert not list(tmp_path.rglob("*.zip"))
    assert bool(list(tmp_path.glob("logs/*/CartPole-v1_1"))) == (status == 1)


@pytest.mark.slow
def test_a_short_run_and_the_policy_of_sb3s_algorithms_are_chosen_and_said(tmp_path):
    """rl_zoo3's default settings name MlpPolicy, which refuses dictionaries; a refused run leaves no folder."""
    (tmp_path / "lamps.py").write_text(LAMPS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = [sys.executable, "-m", "sb3_pgx", *"train --algo sb3_a2c --env lamps:Lamps-v0 -n 4 --eval-freq -1".split()]
    train = partial(subprocess.run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert train([*command, "-params", "policy:'MlpPolicy'"]).returncode == 2
    assert list(tmp_path.glob("logs/*/*")) == []
    done = train(command)
    assert done.returncode == 0, done.stderr
    assert re.search(r"One rollout has 5 steps \(n_envs=1 times n_steps=5\), so the run takes 5 steps", done.stdout)
    policy = stable_baselines3.A2C.load(tmp_path / "logs" / "sb3_a2c" / "Lamps-v0_1" / "Lamps-v0.zip", device="cpu").policy
    assert type(policy).__name__ == "MultiInputActorCriticPolicy"


@pytest.mark.slow
def test_an_evaluation_that_never_ends_is_one_sentence(tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    returned, said = failing_run(tmp_path, "--env endless:Endless-v0 --eval-freq 16 --eval-episodes 1 -params normalize:False")
    assert returned == 1 and said.startswith("sb3-pgx: this evaluation would never end: environment 0 has not ended its ")
    assert "TimeLimit" in said and "The run ended after" in said
