"""Short runs that one process or several make, and what they come to."""

import hashlib
import json
import os
import signal
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from support.interrupted import Interrupt, never

from sb3_pgx import A2C, ACER, NPG, PPO, REINFORCE, TRPO, PPOPenalty, REINFORCEBaseline
from sb3_pgx.checkpoints import CheckpointCallback
from sb3_pgx.environments import evaluate_policy, make_vec_env, spread
from sb3_pgx.parallel import rank, world_size

N_ENVS = 4
ITERATIONS = 10
MASKED, PARTS, MIXED = "sb3_pgx.tasks:InvalidActions-v0", "CartPoleInParts-v1", "sb3_pgx.tasks:Gripper-v0"
PROXIMAL = dict(n_steps=8, batch_size=16, n_epochs=2)
WHOLE = dict(n_steps=32, batch_size=128, n_epochs=10, ent_coef=0.01)  # one minibatch per epoch


class InParts(gym.ObservationWrapper):
    """CartPole with its observations in a dictionary."""

    observation_space = gym.spaces.Dict({name: gym.spaces.Box(-np.inf, np.inf, (2,)) for name in ("cart", "pole")})

    def observation(self, observation):
        return {"cart": observation[:2], "pole": observation[2:]}


gym.register(PARTS, entry_point=lambda: InParts(CartPoleEnv()), max_episode_steps=50)

# name: class, environment, settings, and what else differs: wrapper, policy, iterations, environments that step as arrays
RUNS = {
    "PPO": (PPO, "CartPole-v1", PROXIMAL, {}),
    "A2C, VecNormalize": (A2C, "Pendulum-v1", dict(n_steps=8), {"wrapper": VecNormalize}),
    "ACER": (ACER, "CartPole-v1", dict(n_steps=8, replay_start=64), {}),
    "TRPO": (TRPO, "CartPole-v1", dict(n_steps=16, batch_size=32), {}),
    "REINFORCE": (REINFORCE, "CartPole-v1", {}, {"steps": 1000}),
    "memory and masks": (PPO, "sb3_pgx.tasks:MaskedRecall-v0", PROXIMAL, {"policy": "MlpLstmPolicy"}),
    "arrays": (PPO, "Pendulum-v1", PROXIMAL, {"vector": True}),
    "PPO, compiled": (PPO, "CartPole-v1", PROXIMAL | {"compile": True}, {}),
    "PPOPenalty": (PPOPenalty, "Pendulum-v1", PROXIMAL | {"hinge_coef": 50.0, "early_stop_kl": 4.0}, {}),
    "NPG": (NPG, "Pendulum-v1", dict(n_steps=16, batch_size=32), {"wrapper": VecNormalize}),
    "REINFORCEBaseline": (REINFORCEBaseline, "CartPole-v1", {}, {"steps": 1000}),
    "masks": (A2C, MASKED, dict(n_steps=8), {}),
    "parts": (PPO, PARTS, PROXIMAL, {"policy": "MultiInputPolicy"}),
    "gSDE": (PPO, "Pendulum-v1", PROXIMAL | dict(use_sde=True, sde_sample_freq=3), {}),
    "mixed actions": (PPO, MIXED, PROXIMAL, {}),
    "frames": (PPO, "CartPole-v1", PROXIMAL, {"wrapper": lambda env: VecFrameStack(env, 3)}),
    "ACER, VecNormalize": (ACER, "Pendulum-v1", dict(n_steps=8, replay_start=64), {"wrapper": VecNormalize}),
}
# Runs that are the same with gather_rollouts, but for rounding in the actions.
REFUSED_FOR_ACTORS = ("A2C, VecNormalize", "ACER, VecNormalize", "NPG", "memory and masks")
ACTED = {name: run for name, run in RUNS.items() if name not in REFUSED_FOR_ACTORS} | {
    "A2C": (A2C, "Pendulum-v1", dict(n_steps=8), {}),
    "NPG": (NPG, "Pendulum-v1", dict(n_steps=16, batch_size=32), {}),
}
# Runs that are the same with all_reduce, but for rounding.
AVERAGED = {
    "PPO": (PPO, "CartPole-v1", WHOLE, {"iterations": 5}),
    "PPO, compiled": (PPO, "CartPole-v1", WHOLE | {"compile": True}, {"iterations": 5}),
    "PPO, stopped early": (PPO, "CartPole-v1", WHOLE | {"target_kl": 1e-4}, {"iterations": 5}),
    "PPOPenalty": (PPOPenalty, "Pendulum-v1", WHOLE | {"hinge_coef": 50.0, "early_stop_kl": 4.0}, {"iterations": 5}),
    "A2C": (A2C, "Pendulum-v1", dict(n_steps=8, normalize_advantage=True, use_rms_prop=False), {"iterations": 50}),
    "gSDE": (PPO, "Pendulum-v1", WHOLE | dict(use_sde=True, sde_sample_freq=4), {"iterations": 5}),
    "masks": (PPO, MASKED, WHOLE, {"iterations": 5}),
    "mixed actions": (PPO, MIXED, WHOLE, {"iterations": 5}),
    "parts": (PPO, PARTS, WHOLE, {"policy": "MultiInputPolicy", "iterations": 5}),
    "arrays": (PPO, "Pendulum-v1", WHOLE | {"clip_range_vf": 0.2}, {"iterations": 5, "vector": True}),
}


def environments(run, parallel):
    """Return the environments of a run."""
    _, env_id, _, others = run
    env = make_vec_env(env_id, N_ENVS, seed=0, parallel=parallel, vector=others.get("vector", False))
    return others.get("wrapper", lambda env: env)(env)


def made(run, parallel, seed=1, **changes):
    """Return the model of a run, and the environment steps that it takes."""
    algorithm, _, settings, others = run
    env = environments(run, parallel)
    model = algorithm(others.get("policy", "MlpPolicy"), env, seed=seed, device="cpu", **settings | changes)
    steps = others.get("steps", others.get("iterations", ITERATIONS) * model.n_steps * N_ENVS)
    return model, steps


def trained(run, parallel):
    """Make a run, and return its model."""
    model, steps = made(run, parallel)
    return model.learn(steps, log_interval=None)


def parameters(model):
    """Return all parameters as one vector."""
    return np.concatenate([x.numpy(force=True).ravel() for x in model.policy.state_dict().values()])


def digest(model):
    """Return what stands for all numbers that a run has come to: parameters, optimizer, steps, statistics, episodes."""
    numbers = hashlib.sha256(parameters(model).tobytes())
    for state in model.policy.optimizer.state.values():
        for value in state.values():
            numbers.update(np.asarray(value.numpy(force=True) if isinstance(value, th.Tensor) else value).tobytes())
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        numbers.update(np.concatenate([normalize.obs_rms.mean, normalize.obs_rms.var, [normalize.ret_rms.var]]).tobytes())
    return f"{numbers.hexdigest()[:16]} after {model.num_timesteps} steps"


def outcome(model):
    """Return what a run with all_reduce has come to, in numbers that may differ by rounding."""
    episodes = [[episode["l"], float(episode["r"])] for episode in model.ep_info_buffer or ()]
    logged = {name: float(value) for name, value in model.logger.name_to_value.items() if name.startswith("train/")}
    return {
        "parameters": parameters(model).tolist(),
        "digest": digest(model),
        "steps": [model.num_timesteps, model.n_gradient_steps],
        "episodes": episodes,
        "logged": logged,
    }


def gather(name):
    return digest(trained(RUNS[name], "gather"))


class Witness(BaseCallback):
    """Keeps what it sees of each step: number of steps, rewards, ends, actions, and the episodes that ended."""

    only_reads = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        rewards, dones, actions, infos = (self.locals[name] for name in ("rewards", "dones", "actions", "infos"))
        episodes = [
            (i, info["episode"]["l"], float(info["episode"]["r"])) for i, info in enumerate(infos) if "episode" in info
        ]
        observations = self.locals["new_obs"]
        observation = [np.sum(x) for x in (observations.values() if isinstance(observations, dict) else [observations])]
        mean = np.mean([episode["r"] for episode in self.model.ep_info_buffer] or [0.0])
        numbers = [self.num_timesteps, *rewards, *dones, *np.ravel(actions), *np.ravel(episodes), *observation, mean]
        self.seen.append([float(x) for x in numbers])
        return True


def witnessed(name, parallel):
    """Make a run of those that act in every process. Return what it came to, and what a callback has seen."""
    model, steps = made(ACTED[name], parallel)
    witness = Witness()
    return {**outcome(model.learn(steps, witness, log_interval=10**6)), "seen": witness.seen}


def gather_rollouts(name):
    return witnessed(name, "gather_rollouts")


def all_reduce(name):
    model, steps = made(AVERAGED[name], "all_reduce")
    return outcome(model.learn(steps, log_interval=10**6))


class Stopping(BaseCallback):
    """Stops the training in the middle of a rollout, and counts its calls."""

    calls = 0

    def _on_step(self):
        Stopping.calls += 1
        return self.n_calls < 50


def stopped_by_a_callback(parallel):
    """Return the number of a callback's calls and of steps, and then whether more can be learned."""
    Stopping.calls = 0
    model, steps = made(RUNS["PPO"], parallel)
    model.learn(steps, callback=Stopping())
    at_stop = model.num_timesteps
    model.learn(64, reset_num_timesteps=False, log_interval=None)
    return [Stopping.calls, at_stop, digest(model)]


def refused(parallel):
    """Return the errors of arguments that make no sense, or that differ between processes."""

    def different_seeds():
        model, steps = made(RUNS["PPO"], parallel, seed=rank())
        model.learn(steps)

    def different_arguments():
        model, steps = made(RUNS["PPO"], parallel, ent_coef=0.01 * rank())
        model.learn(steps)

    def different_steps():
        model, steps = made(RUNS["PPO"], parallel)
        model.learn(steps + 8 * rank())

    def of_algorithm(name):
        model, steps = made(RUNS[name], "all_reduce")
        model.learn(steps)

    uses = {
        "n_envs": lambda: make_vec_env("CartPole-v1", 3, parallel=parallel),
        "parallel": lambda: make_vec_env("CartPole-v1", 4, parallel="gathered"),
        "environments": lambda: make_vec_env("CartPole-v1" if rank() else "Pendulum-v1", 4, parallel=parallel),
        "seed": different_seeds,
        "ent_coef": different_arguments,
        "total_timesteps": different_steps,
    }
    if parallel == "gather":
        uses["environments of a callback"] = evaluated_in_spread_environments
    if parallel == "gather_rollouts":
        uses["VecNormalize"] = lambda: made(RUNS["A2C, VecNormalize"], parallel)
        uses["memory and masks"] = lambda: made(RUNS["memory and masks"], parallel)[0].learn(64)
        uses["changed policy"] = lambda: made(RUNS["PPO"], parallel)[0].learn(64, changes_the_policy)
        uses["own wrapper"] = wrapped_again
    if parallel == "all_reduce":
        names = ("ACER", "TRPO", "REINFORCE", "memory and masks")
        uses |= {name: lambda name=name: of_algorithm(name) for name in names}
        uses["batch_size"] = lambda: made(RUNS["PPO"], parallel, batch_size=15)
    return {name: error_of(use) for name, use in uses.items()}


def evaluated_in_spread_environments():
    model, steps = made(RUNS["PPO"], "gather")
    model.learn(steps, EvalCallback(environments(RUNS["PPO"], "gather"), eval_freq=8, verbose=0))


def changes_the_policy(locals_, globals_):
    with th.no_grad():
        next(locals_["self"].policy.parameters()).mul_(1.5)
    return True


def wrapped_again():
    env = made(RUNS["PPO"], "gather_rollouts")[0].get_env()
    PPO("MlpPolicy", VecFrameStack(env, 2), device="cpu", **PROXIMAL).learn(64)


class Failing(BaseCallback):
    """Raises an error at one moment."""

    MOMENTS = ("start", "update", "end")

    def __init__(self, when):
        super().__init__()
        self.when = when

    def _fail(self, moment):
        if moment == self.when:
            raise RuntimeError(f"no disk at {moment}")

    def _on_training_start(self):
        self._fail("start")

    def _on_step(self):
        return True

    def on_update_end(self, metrics):
        self._fail("update")

    def _on_training_end(self):
        self._fail("end")


def failing_callback(parallel):
    """Return the errors of runs in which a callback fails, which only the first process calls, and of a run after them."""
    errors = [error_of(lambda when=when: made(RUNS["PPO"], parallel)[0].learn(64, Failing(when))) for when in Failing.MOMENTS]
    return [*errors, digest(made(RUNS["PPO"], parallel)[0].learn(64))]


def broken_update(how):
    """
    Return the error of a run whose second update fails in the last process alone, in its second gradient step; the steps of
    the model afterwards; and what the same model comes to that learns again.
    """
    env = make_vec_env("CartPole-v1", N_ENVS, seed=0, parallel="all_reduce", max_dropped=int("dropped" in how))
    model, steps = PPO("MlpPolicy", env, seed=1, device="cpu", **PROXIMAL), ITERATIONS * PROXIMAL["n_steps"] * N_ENVS
    evaluate, calls = model.policy.evaluate_actions, []
    breaks = rank() == world_size() - 1

    def break_from_the_sixth_on(*arguments):
        calls.append(th.is_grad_enabled())
        values, log_prob, entropy = evaluate(*arguments)
        if breaks and th.is_grad_enabled() and sum(calls) >= 6:
            if "killed" in how:
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "raises":
                raise RuntimeError("the policy is on fire")
            values = values * float("nan")
        return values, log_prob, entropy

    model.policy.evaluate_actions = break_from_the_sixth_on
    error = error_of(lambda: model.learn(steps, log_interval=None))
    breaks = False
    counted = [model.num_timesteps, model.n_gradient_steps]
    model.learn(steps, log_interval=None, reset_num_timesteps=False)
    return [error, counted, digest(model)]


def whole(path):
    """Return what a run comes to that is not interrupted. The path is ``…/<parallel>/<name>``."""
    return digest(trained(*named(path)))


def watched(run):
    """Make a run that a callback watches, as :func:`interrupted` does; a recurrent policy rounds differently then."""
    model, steps = made(run, None)
    return digest(model.learn(steps, [Interrupt(never)], log_interval=None))


def interrupted(path):
    """Interrupt a run after half of its steps. Its checkpoints are in a folder ``…/<parallel>/<name>``."""
    run, parallel = named(path)
    model, steps = made(run, parallel)
    at = steps // N_ENVS // 2
    return error_of(lambda: model.learn(steps, [CheckpointCallback(1, path, keep=2), Interrupt(lambda calls: calls == at)]))


def resumed(path):
    """Resume such a run, and return what it comes to."""
    run, parallel = named(path)
    env, steps = environments(run, parallel), made(run, parallel)[1]
    model = run[0].resume(path, env, device="cpu")
    assert 0 < model.num_timesteps < steps
    return digest(model.learn(steps, [CheckpointCallback(10**9, path + " again"), Interrupt(never)]))


def named(path):
    """Return the run that a folder belongs to, and how its processes share the work."""
    parallel, name = Path(path).parts[-2:]
    return {"gather": RUNS, "gather_rollouts": ACTED, "all_reduce": AVERAGED}[parallel][name], parallel


def between_calls(folder):
    """Return what two runs come to: one that is saved between two calls of ``learn``, and one that goes on from there."""
    model, steps = made(RUNS["A2C, VecNormalize"], "gather")
    model.learn(steps, log_interval=None)
    model.save_checkpoint(Path(folder, "between"))
    expected = digest(model.learn(steps, reset_num_timesteps=False, log_interval=None))
    resumed = A2C.resume(Path(folder, "between"), environments(RUNS["A2C, VecNormalize"], "gather"), device="cpu")
    return [expected, digest(resumed.learn(steps, reset_num_timesteps=False, log_interval=None))]


def different_checkpoints(folder):
    """Return the errors if the second process finds no checkpoint, has begun anew, or has another task."""
    model, steps = made(RUNS["PPO"], "gather")
    model.save_checkpoint(Path(folder, "0"))

    def resume_or_begin():
        if rank() == 0:
            PPO.resume(Path(folder, "0"), environments(RUNS["PPO"], "gather"))
        else:
            made(RUNS["PPO"], "gather")[0].learn(steps)

    return [
        error_of(lambda: PPO.resume(Path(folder, str(rank())), environments(RUNS["PPO"], "gather"))),
        error_of(resume_or_begin),
        error_of(lambda: PPO.resume(Path(folder, "0"), environments(RUNS["PPOPenalty"], "gather"))),
    ]


def error_of(use):
    """Return the kind and the text of the error that a function raises."""
    try:
        use()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def failing_environment(parallel):
    """Return the error of a run in which one environment, of the last process, raises, and what comes after it."""
    env = spread(lambda rows: make_failing(rows), N_ENVS, parallel)
    model = PPO("MlpPolicy", env, seed=0, device="cpu", **PROXIMAL)
    error = error_of(lambda: model.learn(10_000))
    return [error, digest(trained(RUNS["PPO"], parallel)) if parallel == "gather" else None]


def make_failing(rows):
    env = make_vec_env("CartPole-v1", len(rows))
    if N_ENVS - 1 in rows:
        one, steps = env.envs[-1].unwrapped, []

        def step(action, step=one.step):
            steps.append(action)
            if len(steps) == 50:
                raise RuntimeError("the motor is on fire")
            return step(action)

        one.step = step
    return env


def outside_of_learn(parallel):
    """Return what a script sees that uses the environments itself, in every process."""
    env = make_vec_env("CartPole-v1", N_ENVS, seed=3, parallel="gather")
    model = PPO("MlpPolicy", env, seed=0, device="cpu", **PROXIMAL).learn(64)
    observations = env.reset()
    stepped = env.step(np.ones(N_ENVS, dtype=int))
    env.set_attr("tau", 0.04, indices=[1, 3])
    return [
        observations.sum().item(),
        stepped[1].tolist(),
        env.get_attr("tau", [0, 3]),
        [x[0].tolist() for x in env.env_method("reset", indices=2, seed=5)],
        evaluate_policy(model, env, 4),
    ]


def saving(folder):
    """Return which processes wrote a file when all of them saved the model."""
    model = trained(RUNS["A2C, VecNormalize"], "gather")
    path = Path(folder) / f"model_{rank()}.zip"
    model.save(path)
    return [path.exists(), digest(model)]


def first_gradients(max_dropped):
    """Return the means of three steps with a threshold, of which one process is late for the first two, and the drops."""
    env = make_vec_env("CartPole-v1", 3, parallel="all_reduce", max_dropped=int(max_dropped))
    reduction, means = env.reduction, []
    for late, seconds in ((2, 1.0), (1, 3.0), (None, 0.0)):  # the rank of the process that is late
        if rank() == late:
            time.sleep(seconds)
        if late is None:
            reduction.settle()
            env.team.exchange(None)
        gradient = th.tensor([10.0 ** rank(), 0.0])
        found = reduction.missed(1, [gradient[:1]])
        means.append((reduction.flat(gradient) if found is None else found)[0].item())
    reduction.settle()
    return [means, getattr(reduction, "dropped", 0)]


def dropping(name):
    """Return the parameters' digest of a run that drops gradients, in which the last process is slow."""
    env_id, settings = AVERAGED[name][1:3]
    env = make_vec_env(env_id, N_ENVS, seed=0, parallel="all_reduce", max_dropped=1)
    model = AVERAGED[name][0]("MlpPolicy", env, seed=1, device="cpu", **settings)
    if rank() == world_size() - 1:
        evaluate = model.policy.evaluate_actions
        model.policy.evaluate_actions = lambda *arguments: (time.sleep(0.02), evaluate(*arguments))[1]
    model.learn(5 * 128, log_interval=None)
    return [digest(model), model.n_gradient_steps, env.reduction.dropped]


def dying(parallel):
    """End the last process without a word, in the middle of a rollout."""
    env = spread(lambda rows: make_vec_env("CartPole-v1", len(rows)), N_ENVS, parallel)
    if rank() == world_size() - 1:
        one, steps = (env.own if hasattr(env, "own") else env.unwrapped).envs[0].unwrapped, []

        def step(action, step=one.step):
            steps.append(action)
            if len(steps) == 50:
                os._exit(9)
            return step(action)

        one.step = step
    PPO("MlpPolicy", env, seed=0, device="cpu", **PROXIMAL).learn(10_000)


def run_rank(variables, folder, *checks):
    """
    Be one of several processes: write what each check returned into ``folder/<rank>.json``, and what is printed into
    ``folder/<rank>.txt``.

    :param variables: environment variables
    """
    os.environ.update(variables)
    with open(Path(folder, f"{rank()}.txt"), "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    warnings.simplefilter("ignore")
    th.set_num_threads(1)
    results = {}
    try:
        for check in checks:
            function, _, argument = check.partition(":")
            results[check] = globals()[function](argument or folder)
    finally:
        if th.distributed.is_initialized():  # otherwise done when the interpreter ends, which a copy of a process does not
            th.distributed.destroy_process_group()
    Path(folder, f"{rank()}.json").write_text(json.dumps(results))
