# Every task of the project; .ci/run calls the same ones. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
GENERATOR := $(VENV)/generator
# The tools that check deploy/ are 400 MB: an environment of their own, which only `make check-deploy` and its kind make.
DEPLOY ?= $(VENV)/deploy
# The Python of the image's base.
IMAGE_PYTHON ?= 3.13
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# Twice as many test processes as cores: many tests wait for a lease, a timeout or another process.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(2 * len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
# More options, as in: make test ARGS='-k renew', make serve ARGS='--data a.db', make bench ARGS=--help.
ARGS    ?=

PROTOS  := $(wildcard protos/blockyard/v1/*.proto)
V1      := client/blockyard/v1
PYTEST   = $(BIN)/python -m pytest

# Else each process compiles all of the project and, for pytest, all tests anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## These lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Two stamps, one after the other: serving needs less than developing, and two pips never run at once.
$(VENV)/.server: pyproject.toml requirements/server.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Blockyard needs Python 3.11 or newer: make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --requirement requirements/server.txt
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.server requirements/dev.txt
	$(PIP) install --quiet --requirement requirements/dev.txt
	@touch $@

# The generator of the code out of the protos is older than what runs: see requirements/generator.in.
$(GENERATOR)/.installed: requirements/generator.txt
	$(PYTHON) -m venv $(GENERATOR)
	$(GENERATOR)/bin/python -m pip --disable-pip-version-check install --quiet --requirement requirements/generator.txt
	@touch $@

.PHONY: install
install: $(VENV)/.dev  ## Everything that the other targets need, into .venv

.PHONY: serve
serve: $(VENV)/.server  ## A server on 127.0.0.1:7350; DEMO=1 adds a demo fleet
	@exec $(BIN)/blockyard serve $(if $(DEMO),--demo) $(ARGS)

.PHONY: test
test: $(VENV)/.dev  ## The tests for a change, on every core; tests/README.md says what is where
	$(PYTEST) -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: test-slow
test-slow: $(VENV)/.dev  ## The tests that are slow by the number of seeds, steps or kills; CI runs them, too
	$(PYTEST) -n $(WORKERS) --dist worksteal -m 'slow and not soak' $(ARGS)

.PHONY: hooks
hooks: $(VENV)/.dev  ## pre-commit: ruff, mypy, the layers and buf before each commit
	$(BIN)/pre-commit install

.PHONY: lint
lint: $(VENV)/.dev  ## ruff: the rules, and the formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(VENV)/.dev  ## ruff: mends what it can by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: $(VENV)/.dev  ## mypy --strict
	$(BIN)/mypy

.PHONY: layers
layers: $(VENV)/.dev  ## import-linter: who may import whom (docs/explanation/architecture.md)
	$(BIN)/lint-imports --no-logo

.PHONY: protos
protos: $(VENV)/.dev  ## buf: the protos' style, and that no client of the last release breaks
	$(BIN)/buf lint
	BUF=$(BIN)/buf bash .ci/breaking

.PHONY: generate
generate: $(VENV)/.dev $(GENERATOR)/.installed  ## The generated code: from the protos, and the clients' methods
	$(call protoc,client)
	$(BIN)/python scripts/generate_client_methods.py

.PHONY: generated
generated: $(VENV)/.dev $(GENERATOR)/.installed  ## Compares the generated code with a fresh generation
	@rm -rf build/generated && mkdir -p build/generated
	$(call protoc,build/generated)
	diff --recursive --exclude=__init__.py --exclude=__pycache__ build/generated/blockyard/v1 $(V1)
	@echo "$(V1) is what the protos generate."
	@$(BIN)/python scripts/generate_client_methods.py --check

.PHONY: lock
lock: $(VENV)/.dev  ## Renews requirements/*.txt: the newest releases that pyproject.toml allows; ARGS=--upgrade
	$(call lock,pyproject.toml --extra server --extra jwt,server)
	$(call lock,pyproject.toml --extra server --extra jwt --extra dev,dev)
	$(call lock,requirements/generator.in,generator)
	$(call lock,requirements/deploy.in,deploy)

$(DEPLOY)/.installed: requirements/deploy.txt
	$(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip --disable-pip-version-check install --quiet --requirement requirements/deploy.txt
	@touch $@

.PHONY: check-deploy
check-deploy: $(VENV)/.dev $(DEPLOY)/.installed  ## The chart, the compose file and the Containerfile, checked by their own tools
	BLOCKYARD_DEPLOY_TOOLS=$(abspath $(DEPLOY)) $(PYTEST) -m deploy tests/deploy $(ARGS)

.PHONY: image-context
image-context: $(VENV)/.dev  ## What the image is built from, in build/image: wheels for IMAGE_PYTHON
	@rm -rf build/image
	$(PIP) download --quiet --require-hashes --only-binary :all: --python-version $(IMAGE_PYTHON) \
	  --dest build/image/wheels --requirement requirements/server.txt
	$(BIN)/uv build --quiet --wheel --out-dir build/image/wheels
	@rm -f build/image/wheels/.gitignore
	cp requirements/server.txt deploy/container/health.py build/image

.PHONY: image-test
image-test: $(VENV)/.dev  ## As root, with buildah and mmdebstrap: builds the image on Debian's packages, and runs it
	@if [ "$$(id -u)" = 0 ] && command -v buildah mmdebstrap >/dev/null; then $(PYTEST) -m soak -s tests/deploy/test_image.py $(ARGS); \
	else echo "image-test: not tested: it needs root, buildah and mmdebstrap"; fi

.PHONY: sbom
sbom: $(VENV)/.dev $(DEPLOY)/.installed  ## What a server is made of, as CycloneDX 1.6: build/sbom.json
	@mkdir -p build
	$(DEPLOY)/bin/python -m cyclonedx_py requirements --output-reproducible --spec-version 1.6 --pyproject pyproject.toml \
	  --output-file build/sbom.json requirements/server.txt

.PHONY: audit
audit: $(DEPLOY)/.installed  ## The locks against the published advisories; needs the network that has them
	$(DEPLOY)/bin/python -m pip_audit --require-hashes --disable-pip --requirement requirements/server.txt

.PHONY: docs
docs: $(VENV)/.dev  ## Executes the snippets of README.md and docs/
	$(PYTEST) -m 'not soak' tests/docs $(ARGS)

.PHONY: site
site: $(VENV)/.dev  ## The pages as a site in build/site, strictly; then the tests that read it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet  # what it warns of is in docs/adr/0025
	$(PYTEST) -m site tests/docs $(ARGS)

.PHONY: package
package: $(VENV)/.dev  ## Wheel and sdist are built, checked, installed with the oldest and the newest packages, and tested there
	$(PYTEST) -m package tests/package $(ARGS)

.PHONY: bench
bench: $(VENV)/.dev  ## The measurements, as a table
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-watch
bench-watch: $(VENV)/.dev  ## How long a change takes to reach who watches
	$(BIN)/python -m benchmarks.watch $(ARGS)

.PHONY: bench-observe
bench-observe: $(VENV)/.dev  ## What a scrape and the counting of a call cost
	$(BIN)/python -m benchmarks.observe $(ARGS)

.PHONY: stress
stress: $(VENV)/.dev  ## Loads that must not stop the others: goal, figure and verdict of each; ARGS=--short for CI's form
	$(BIN)/python -m benchmarks.stress $(ARGS)

.PHONY: abuse
abuse: $(VENV)/.dev  ## Goals that hold under abuse: goal, figure and verdict of each; ARGS=--short for CI's form
	$(BIN)/python -m benchmarks.abuse $(ARGS)

.PHONY: short-loads
short-loads: $(VENV)/.dev  ## Both of them in CI's form: a miss of a figure that depends on the machine is no failure
	$(BIN)/python -m benchmarks.stress --short
	$(BIN)/python -m benchmarks.abuse --short

.PHONY: soak
soak: $(VENV)/.dev  ## The model check, the crashes, the repairs and the real logs, for hours
	BLOCKYARD_SOAK=1 $(PYTEST) -n $(WORKERS) -m soak --timeout=0 tests/property tests/fault/test_crash.py tests/logs \
	  tests/unit/test_repair_properties.py tests/store/test_backup_beside_servers.py $(ARGS)

.PHONY: simulate
simulate: $(VENV)/.dev  ## The engine in a simulated world: 100,000 seeds, or ARGS="--seed 1234"
	$(BIN)/python -m tests.simulation $(ARGS)

.PHONY: faults
faults: $(VENV)/.dev  ## Deaths at every named point, frozen and killed servers, clocks that are set: SQLite and PostgreSQL
	BLOCKYARD_SOAK=1 $(PYTEST) -n $(WORKERS) -m 'soak or not soak' --timeout=0 tests/fault/test_kill_points.py tests/fault/test_time.py tests/race/test_three_servers.py $(ARGS)

.PHONY: mutants
mutants: $(VENV)/.dev  ## The server with one guard taken away at a time: a test must see each
	$(PYTEST) -n $(WORKERS) -m 'soak or not soak' tests/fault/test_mutants.py $(ARGS)

.PHONY: upgrade
upgrade: $(VENV)/.dev  ## Release 0.1.0 beside this one for longer, and a million journal rows upgraded
	BLOCKYARD_ROLLING_GRANTS=1000 BLOCKYARD_UPGRADED_ALLOCATIONS=670000 $(PYTEST) -n 0 --timeout=0 -s tests/upgrade $(ARGS)

.PHONY: failover
failover: $(VENV)/.dev  ## PostgreSQL's primary is killed under load twenty times, and its standby promoted
	BLOCKYARD_SOAK=1 $(PYTEST) -n 0 -m soak --timeout=0 tests/fault/test_failover.py $(ARGS)

.PHONY: power
power: $(VENV)/.dev  ## Power cuts at every write of SQLite: 10,000 images of the disk
	$(BIN)/python -m tests.power $(ARGS)

.PHONY: history
history: $(VENV)/.dev  ## A million calls under faults, recorded and checked; PostgreSQL: ARGS='--database postgres --servers 3'
	$(BIN)/python -m tests.history --faults $(ARGS)

.PHONY: chaos
chaos: $(VENV)/.dev  ## Ten minutes of everything that can happen, from a seed; PostgreSQL: ARGS='--database postgres --servers 2'
	$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: check
check:  ## All that CI runs
	@bash .ci/run

define protoc
	$(GENERATOR)/bin/python -m grpc_tools.protoc -Iprotos \
	  --plugin=protoc-gen-mypy=$(GENERATOR)/bin/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(GENERATOR)/bin/protoc-gen-mypy_grpc \
	  --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)
endef

# Hashes and no host: whoever installs chooses where from.
define lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --output-file requirements/$(2).txt $(1) $(ARGS)
endef
