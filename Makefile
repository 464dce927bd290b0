# Everything a fresh machine with Python and make needs: each target does its own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check definitions format dev docs up production newest browser faketime cluster bench freshness soak saturday faults scale clean

help:  ## Show the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# The dependency on the pins makes a changed pin reinstall; a broken install leaves no mark behind.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' \
	  || { echo "needs Python 3.11 to 3.14; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment: install its venv package"; exit 1; }
	@echo "installing the pinned dependencies into $(VENV) (once, about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sandbox,dev]'
	@touch $@

demo: $(INSTALLED)  ## Load a simulated racing day and poll five races three times, for real
	@$(BIN)/raceday demo

# Many tests wait, so there are more workers than cores. A worker takes whole files (raceday_dagster_tests/conftest.py).
WORKERS ?= 3
TEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)  ## Run the tests (WORKERS=1 for one after the other)
	@$(TEST)

check: $(INSTALLED)  ## Format, lint, types, definitions, tests: what CI runs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory definitions
	@$(TEST)

# In an instance of their own: ours would want its PostgreSQL.
definitions: export DAGSTER_HOME = $(CURDIR)/$(VENV)/dagster
definitions: $(INSTALLED)  ## Load the definitions as Dagster's own tools do
	@mkdir -p $(DAGSTER_HOME) && printf 'telemetry:\n  enabled: false\n' > $(DAGSTER_HOME)/dagster.yaml
	@$(BIN)/dg check defs
	@$(BIN)/dg list defs
	@$(BIN)/python -W ignore -m dagster definitions validate -m raceday_dagster.definitions

format: $(INSTALLED)  ## Format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

dev: $(INSTALLED)  ## The Dagster UI on a simulated racing day, at http://127.0.0.1:3000
	@$(BIN)/raceday sandbox -- dagster dev -w workspace.yaml -h 127.0.0.1 -p 3000

docs: $(INSTALLED)  ## Write docs/data.md from the comments of the database's views
	@$(BIN)/raceday sandbox -- $(BIN)/python -m raceday_dagster.store.schema.documentation > docs/data.md.new
	@mv docs/data.md.new docs/data.md

up: $(INSTALLED)  ## The whole day, unattended: daemon, code server and UI at http://127.0.0.1:3000
	@exec $(BIN)/raceday up

production: $(INSTALLED)  ## Install the wheel without extras into an empty environment and load a racing day from there
	@.ci/fresh_environment production

newest: $(INSTALLED)  ## The same and the unit tests with the newest version of every dependency; says which they were
	@.ci/fresh_environment newest

browser:  ## Install the Chromium that the tests of the UI drive (Debian, as root)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium chromium-driver >/dev/null; } \
	  || { echo "install chromium and chromedriver: on Debian, as root, apt-get install chromium chromium-driver"; exit 1; }

faketime:  ## Install the library by which tests set the clock of a service (Debian, as root)
	@ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y libfaketime >/dev/null; } \
	  || { echo "install libfaketime: on Debian, as root, apt-get install libfaketime"; exit 1; }

cluster:  ## Install the Redis and the PgBouncer that the tests of a cluster start (Debian, as root)
	@{ command -v redis-server && PATH="$$PATH:/usr/sbin" command -v pgbouncer; } >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y redis-server pgbouncer >/dev/null; } \
	  || { echo "install redis-server and pgbouncer: on Debian, as root, apt-get install redis-server pgbouncer"; exit 1; }

bench: $(INSTALLED)  ## Measure the batch against plain threads and against Dagster's own executors
	@$(BIN)/raceday bench --count 5 --iterations 15 --compare

freshness: $(INSTALLED)  ## Measure the way from a race falling due to its rows, under `raceday up`
	@$(BIN)/python -m benchmarks.freshness

MINUTES ?= 10
soak: $(INSTALLED)  ## Follow a simulated day for ten minutes (MINUTES=60 for an hour), stopping a daemon and killing a run
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

saturday: $(INSTALLED)  ## Measure the largest day: 700 races, a month of history, memory over a day's batches (half an hour, 10 GB of disk)
	@$(BIN)/python -m benchmarks.saturday

# Each of these files breaks something on the real database, the real simulator or in real processes, and shows that it broke.
FAULT_TESTS = $(addprefix raceday_dagster_tests/integration/,fetch store archive/test_archive_faults.py workers defs/test_batch.py \
  defs/test_repeated_batch.py dagster_plugins sandbox/test_postgres_crashes.py service/test_lost_runs.py)
SEED ?= 1
EXAMPLES ?= 100000

faults: MINUTES = 60
faults: $(INSTALLED)  ## Break everything on purpose: the fault tests, 100,000 mutated answers, random faults for an hour (MINUTES=10, SEED=2)
	@$(TEST) $(FAULT_TESTS)
	@echo "$(EXAMPLES) mutated answers, seed $(SEED)"
	@FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q --hypothesis-seed=$(SEED) raceday_dagster_tests/unit/fetch/test_wire_fuzz.py
	@$(BIN)/python -m benchmarks.faults --minutes $(MINUTES) --seed $(SEED)

scale: $(INSTALLED)  ## Measure 1, 2 and 4 machines of a cluster, and what one that dies costs (needs `make cluster`)
	@$(BIN)/python -m benchmarks.cluster

clean:  ## Remove the virtual environment and the sandbox's state
	@! [ -x $(BIN)/raceday ] || $(BIN)/raceday db stop
	@rm -rf $(VENV) .raceday
