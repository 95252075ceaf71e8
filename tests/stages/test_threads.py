"""Several trainings in one process at once: each learns what it learns alone, and what belongs to the process stays."""

import sys
import threading
import warnings

import pytest
import torch as th
from selection import mostly_slow
from support.eager_and_compiled import envs, make
from support.models import parameters
from torch.distributions import Distribution

# Without ACER and ACKTR, whose updates draw from torch's one generator, which all threads share.
CASES = {
    "a2c": {},
    "ppo": {},
    "ppo_penalty": {},
    "trpo": dict(critic="trust_region"),
    "npg": {},
    "reinforce": dict(baseline="optimal"),
    "reinforce, per parameter": dict(baseline="optimal_per_parameter"),
}


@pytest.fixture(autouse=True)
def threads_change_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*functions):
    """The results of functions that run at the same time, each in a thread of its own."""
    start, results = threading.Barrier(len(functions)), [None] * len(functions)

    def run(i):
        start.wait()
        try:
            results[i] = functions[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def with_a_fixed_rollout(case, seed, compile):
    """A model after its first update, whose minibatches come in the order of the rows, and which has no graphs yet."""
    model = make(case.split(",")[0], envs(), seed=seed, compile=False, **CASES[case])
    model.learn(12)
    model.compiled = compile

    def in_order(rollout, batch_size):
        for start in range(0, rollout.n_valid, batch_size or rollout.n_valid):
            yield rollout.rows(th.arange(start, min(start + (batch_size or rollout.n_valid), rollout.n_valid)))

    model.minibatches = in_order
    return model


def updated(model, n=8):
    for _ in range(n):
        model.update(model.last_rollout)
    return parameters(model)


@pytest.mark.parametrize(
    "cases, compile",
    [
        pytest.param(("trpo", "trpo"), False, id="twice the same", marks=pytest.mark.slow),
        pytest.param(("trpo", "trpo"), True, id="twice the same, compiled"),
        pytest.param(tuple(CASES), False, id="all"),
        pytest.param(tuple(CASES), True, id="all, compiled", marks=pytest.mark.slow),
    ],
)
def test_updates_at_the_same_time_are_those_one_after_the_other(cases, compile, graphs):
    alone = [updated(with_a_fixed_rollout(case, seed, compile)) for seed, case in enumerate(cases)]
    models = [with_a_fixed_rollout(case, seed, compile) for seed, case in enumerate(cases)]
    for case, expected, reached in zip(cases, alone, together(*(lambda m=m: updated(m) for m in models)), strict=True):
        for name, value in expected.items():
            assert th.equal(reached[name], value), f"{case}: {name}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*truncated mini-batch:UserWarning")
def test_all_algorithms_train_at_the_same_time(graphs):
    """Compiling all that they can; the fixture of all tests looks at what belongs to the process."""
    models = [make(name, compile=True) for name in ("a2c", "ppo", "trpo", "npg", "acer")]
    filters = list(warnings.filters)
    together(*(lambda m=m: m.learn(48) for m in models))
    assert warnings.filters == filters
    assert all(th.isfinite(p).all() for m in models for p in m.policy.parameters())
    assert not any("uncompiled" in sentence for m in models for sentence in m.log.sentences)


class Watched(th.nn.Linear):
    """A layer that looks at what belongs to the process whenever it is run."""

    def __init__(self, layer, seen):
        super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict(layer.state_dict())
        self.seen = seen

    def forward(self, x):
        # Whether argument checks are on, as any other thread would find them, and whether they still refuse.
        self.seen.append((Distribution._validate_args, tuple(map(id, warnings.filters))))
        return super().forward(x)


WATCHED = mostly_slow(
    [(case, compile) for case in CASES for compile in (False, True)],
    lambda case, compile: case in ("a2c", "trpo") if compile else case in ("reinforce", "npg"),
)


@pytest.mark.parametrize("case, compile", WATCHED)
def test_nothing_of_the_process_changes_while_an_update_is_computed(case, compile, graphs):
    make("a2c", compile=True).learn(12)  # whatever is imported for the first time adds filters of its own
    model, seen = make(case.split(",")[0], envs(), compile=compile, **CASES[case]), []
    model.policy.action_net = Watched(model.policy.action_net, seen)
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-3)
    filters = tuple(map(id, warnings.filters))
    model.learn(24)
    assert set(seen) == {(True, filters)}


def test_argument_checks_of_another_thread_stay_on_while_a_function_is_traced(graphs):
    """A thread that refuses a standard deviation of 0 refuses it all the while that another one compiles."""
    model, done, refused, accepted = make("trpo", compile=True), threading.Event(), [], []

    def refuses():
        while not done.is_set():
            try:
                th.distributions.Normal(th.zeros(1), th.zeros(1))
                accepted.append(1)
            except ValueError:
                refused.append(1)

    def trains():
        try:
            model.learn(24)
        finally:
            done.set()

    together(refuses, trains)
    assert refused and not accepted
