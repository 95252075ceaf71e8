"""Where the benchmark says that the time goes: a stopwatch whose clock passes only when told to."""

import pytest

from benchmarks.speed.measure import gradient_steps_per_update
from benchmarks.speed.phases import PHASES, timed_phases
from benchmarks.speed.results import PhaseRound
from sb3_pgx.stages.algorithm import PolicyGradientAlgorithm


class Clock:
    """Nanoseconds that pass only when told to."""

    now = 0

    def __call__(self) -> int:
        return self.now


class Environment:
    def __init__(self, clock):
        self.clock = clock

    def step(self, actions):
        self.clock.now += 7


class Theirs:
    """SB3's shape: two steps of acting and stepping, an update; the rest is ``learn``'s own."""

    def __init__(self, clock):
        self.clock, self.env = clock, Environment(clock)

    def get_env(self):
        return self.env

    def learn(self):
        self.clock.now += 1
        self.collect_rollouts()
        self.train()

    def collect_rollouts(self):
        for _ in range(2):
            self.clock.now += 20
            self.env.step(None)

    def train(self):
        self.clock.now += 300


class Ours(Theirs, PolicyGradientAlgorithm):
    """The same, with stages 2 and 3 inside the collection, and another name for the update."""

    def learn(self):
        self.clock.now += 1
        self.collect_rollouts()
        self.update(None)

    def collect_rollouts(self):
        super().collect_rollouts()
        self.evaluate_and_estimate(None)

    def evaluate_and_estimate(self, rollout):
        self.clock.now += 54_000

    def update(self, rollout):
        self.clock.now += 300


@pytest.mark.parametrize(("kind", "evaluate"), [(Theirs, 0), (Ours, 54_000)])
def test_phases_exclude_what_is_inside_them_and_add_up_to_the_whole(kind, evaluate):
    clock = Clock()
    model = kind(clock)
    with timed_phases(model, clock=clock) as stopwatch:
        model.learn()
        model.learn()
        seconds = stopwatch.seconds()
    expected = {"collect": 40, "evaluate": evaluate, "update": 300, "environment": 14, "callback": 0, "other": 1}
    assert seconds == pytest.approx({phase: 2 * ns / 1e9 for phase, ns in expected.items()}, abs=1e-15)
    assert sum(seconds.values()) == pytest.approx(clock.now / 1e9)
    assert (stopwatch.calls["environment"], stopwatch.calls["update"]) == (4, 2)


class Watching(Theirs):
    """With a callback that takes its time, inside the collection and after it."""

    def collect_rollouts(self):
        super().collect_rollouts()
        self.callback.on_rollout_end()

    def learn(self):
        super().learn()
        self.callback.on_training_end()


def test_a_callback_is_a_phase_of_its_own():
    clock = Clock()

    class Callback:
        def on_rollout_end(self):
            clock.now += 5

        def on_training_end(self):
            clock.now += 600

    model, callback = Watching(clock), Callback()
    model.callback = callback
    with timed_phases(model, callback, clock) as stopwatch:
        model.learn()
        seconds = stopwatch.seconds()
    expected = {"collect": 40, "evaluate": 0, "update": 300, "environment": 14, "callback": 605, "other": 1}
    assert seconds == pytest.approx({phase: ns / 1e9 for phase, ns in expected.items()}, abs=1e-15)
    assert not vars(callback)


def test_nothing_of_the_stopwatch_stays_on_model_and_environments():
    model = Theirs(Clock())
    with timed_phases(model), pytest.raises(ZeroDivisionError):
        assert "train" in vars(model) and "step" in vars(model.env)
        raise ZeroDivisionError
    assert set(vars(model)) == {"clock", "env"} and set(vars(model.env)) == {"clock"}


def test_an_error_ends_its_phase():
    clock = Clock()
    model = Theirs(clock)
    model.env.step = lambda actions: 1 / 0
    with timed_phases(model, clock=clock) as stopwatch:
        with pytest.raises(ZeroDivisionError):
            model.learn()
        clock.now += 5000
        assert stopwatch.seconds()["other"] == pytest.approx(5001e-9)


def test_acting_and_minibatch_steps_are_microseconds_of_their_own_phase():
    seconds = {"collect": 2.0, "evaluate": 1.0, "update": 6.0, "environment": 0.3, "callback": 0.2, "other": 0.5}
    phases = PhaseRound(seconds, env_steps=4000, gradient_steps=30_000)
    assert (phases.acting_us, phases.step_us) == (pytest.approx(500.0), pytest.approx(200.0))
    assert [phases.share(phase) for phase in PHASES] == pytest.approx([0.2, 0.1, 0.6, 0.03, 0.02, 0.05])


@pytest.mark.filterwarnings("ignore:batch_size=32 does not divide")
@pytest.mark.parametrize(("batch_size", "steps"), [(80, 5), (20, 20), (32, 15)])
def test_gradient_steps_count_every_minibatch_of_every_epoch(batch_size, steps):
    from sb3_pgx import A2C, PPO

    ppo = PPO("MlpPolicy", "CartPole-v1", n_steps=80, batch_size=batch_size, n_epochs=5, device="cpu")
    optimizer_steps = []
    ppo.policy.optimizer.register_step_post_hook(lambda *_: optimizer_steps.append(1))
    ppo.learn(80)
    assert gradient_steps_per_update(ppo) == steps == len(optimizer_steps)
    assert gradient_steps_per_update(A2C("MlpPolicy", "CartPole-v1", device="cpu")) == 1
