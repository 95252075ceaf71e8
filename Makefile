# Needs Python >= 3.10 and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Compiled modules are kept. Without them, each of the many processes of the tests would compile the package again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-all test-gpu fuzz versions pythons check format table docs docs-outputs release-check benchmark clean

demo: .venv/.plots  ## two minutes: SB3's PPO and ours, REINFORCE with and without baseline, a finding of the health check
	$(BIN)/python -m sb3_pgx.experiments.demo

test: .venv/.tests  ## the test suite, on two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

test-all: .venv/.tests  ## with the slow tests; writes tests/summary.txt
	$(BIN)/python tests/summary.py

test-gpu: .venv/.tests  ## the same with models on CUDA; writes tests/gpu.txt
	$(BIN)/python tests/summary.py --cuda

fuzz: .venv/.tests  ## 2,400 random uses of the algorithms, their outcomes go into tests/fuzz.json
	$(BIN)/python tests/fuzz.py

versions: .venv/.tests  ## the oldest and the newest torch that are allowed; writes tests/versions.txt
	$(BIN)/python tests/versions.py

pythons: .venv/.tests  ## the quick suite on every Python from 3.10 to 3.13, or on PYTHONS=3.12; writes tests/pythons.txt
	$(BIN)/python tests/pythons.py $(PYTHONS)

check: .venv/.dev  ## style, types, and which module may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

table: .venv/.tests  ## rewrite the tables of README and docs, and the pictures, from test runs and benchmarks/results
	$(BIN)/python tests/generated_sections.py
	$(BIN)/python -m benchmarks.picture
	$(BIN)/python -m benchmarks.curves --draw

docs: .venv/.docs  ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html

docs-outputs: .venv/.docs  ## run the commands and notebooks whose output the documentation shows, and replace the outputs
	$(BIN)/python docs/outputs.py
	$(BIN)/python docs/notebooks.py

release-check: .venv/.release  ## build, check and install what would be published; writes tests/release.txt
	$(BIN)/python tests/release_check.py

benchmark: .venv/.bench  ## measure the speed next to the peers that are installed; writes benchmarks/results/bench.json; then run make table
	$(BIN)/python -m benchmarks.speed --write

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear .venv

.venv/pyvenv.cfg: $(BIN)/python
	touch $@

# The constraints reach the build of the package itself through the environment.
.venv/.%: .venv/pyvenv.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip --version > /dev/null || $(PYTHON) -m venv --clear .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv
