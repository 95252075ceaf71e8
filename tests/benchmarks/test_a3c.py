"""The benchmark of A3C beside A2C: its table. No test asserts a speed."""

from benchmarks.speed import a3c

RUN = dict(
    frames_per_second=1000.0,
    start_seconds=2.0,
    n_updates=100,
    staleness=0.5,
    stale=0.25,
    steps_to_475=20_000,
    final_return=480.0,
)


def test_the_table_has_medians_and_every_seeds_return_and_says_how_many_seeds_reached_475():
    slow = {**RUN, "frames_per_second": 3000.0, "steps_to_475": None, "final_return": 90.4}
    *_, reached = a3c.markdown({"a3c-2": {"seconds": [RUN, {**RUN, "steps_to_475": 30_000}]}}).splitlines()
    assert reached == "| a3c-2 | 16 | 1,000 | 2.0 | 100 | 0.50 | 25% | 25,000 | 480, 480 |"
    *_, missed = a3c.markdown({"a2c-8-envs": {"seconds": [RUN, slow]}}).splitlines()
    assert missed == "| a2c-8-envs | 8 | 2,000 | 2.0 | 100 | 0.50 | 25% | 1 of 2 seeds | 480, 90 |"


def test_the_claim_has_seeds_of_its_own():
    assert {s for case in a3c.CASES.values() for s in case.seeds if case.name != "claim"}.isdisjoint(a3c.CLAIM_SEEDS)
