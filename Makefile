# Everything runs from .venv, which the first target that needs it makes; nothing has to be activated.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTERS ?= 2
EXTRAS := text,static,mcp,langgraph,langchain
REQUESTS ?= 100000
# Folders that hold no Python yet are left out: mypy would refuse them.
TYPED := $(wildcard protos client server tests benchmarks/*.py docs/*.py examples/*.py helm/*.py)
BENCHMARKS := $(sort $(wildcard benchmarks/bench_*.py))
RELEASED := protos/attractor-0.1.0.binpb
OURS := --config buf.yaml --path attractor_proto
TARGET ?= cpu
IMAGE ?= localhost/attractor:0.1.0
BASE ?= docker.io/library/debian:bookworm-slim
LOCAL_BASE := localhost/debian:bookworm-slim

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '%-14s %s\n' "$$target" "$$text"; done

.PHONY: demo
demo: $(STAMP) ## store and recall real images, write demo.png; then remember texts
	$(BIN)/attractor demo
	$(BIN)/attractor demo --text

.PHONY: serve
serve: $(STAMP) ## run a server here (settings: ATTRACTOR_*, see `attractor serve --help`)
	$(BIN)/attractor serve

.PHONY: test
test: export PYTHONDONTWRITEBYTECODE := # else each process that a test starts compiles anew what all of them import
test: $(STAMP) ## run all tests, or TESTS=tests/…, in TESTERS=2 processes, which share them by the file
	$(BIN)/pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder $(TESTS)

.PHONY: tools
tools: $(STAMP) ## fetch Helm into build/tools, for the tests of the chart, which are skipped without it
	$(BIN)/python tests/support/helm_tools.py build/tools

.PHONY: check
check: check-format check-lint check-types check-protos check-arrows check-helm ## run every check that is no test

.PHONY: check-format
check-format: $(STAMP)
	$(BIN)/ruff format --check .

.PHONY: check-lint
check-lint: $(STAMP)
	$(BIN)/ruff check .

.PHONY: check-types
check-types: $(STAMP)
	$(BIN)/mypy $(TYPED)

.PHONY: check-protos
check-protos: $(STAMP)
	$(BIN)/python protos/generate.py --check
	@mkdir -p build
	$(BIN)/python protos/generate.py --descriptors build/new.binpb
	$(BIN)/buf lint build/new.binpb $(OURS)
	$(BIN)/buf breaking build/new.binpb --against $(RELEASED) $(OURS)

.PHONY: check-arrows
check-arrows: $(STAMP)
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_import_arrows.py

.PHONY: check-helm
check-helm: $(STAMP)
	$(BIN)/python helm/write_chart.py --check

.PHONY: protos
protos: $(STAMP) ## write the stubs of the contract anew
	$(BIN)/python protos/generate.py

.PHONY: format
format: $(STAMP) ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(STAMP) ## render the site in build/docs; every warning is an error
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning -c docs . build/docs

.PHONY: bench
bench: $(STAMP) ## run every benchmark
	@set -e; for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(BIN)/python "$$benchmark"; done

.PHONY: quality
quality: $(STAMP) ## measure every model that ships, beside its rivals, and write docs/quality.md (ARGS=…)
	$(BIN)/python benchmarks/quality.py $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## do every fault, a hundred kills among them, and write docs/durability.md (takes an hour; ARGS=…)
	$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: fuzz
fuzz: $(STAMP) ## send requests with anything in them to all services (REQUESTS=100000 takes half an hour)
	ATTRACTOR_FUZZED=$(REQUESTS) $(BIN)/pytest -q tests/fuzz

.PHONY: image
image: ## build the image of the server with buildah: IMAGE=… TARGET=cpu|cuda BASE=… BUILD_FLAGS=…
	buildah build --isolation chroot --layers --format docker --target $(TARGET) --build-arg BASE=$(BASE) \
		--build-arg REVISION=$$(git rev-parse HEAD) --tag $(IMAGE) $(BUILD_FLAGS) .
	@buildah images --format '{{.Name}}:{{.Tag}} has {{.Size}}' $(IMAGE)

.PHONY: image-base
image-base: ## make a BASE where no registry is reached, by mmdebstrap: BASE=localhost/debian:bookworm-slim
	@mkdir -p build
	mmdebstrap --variant=minbase --include=ca-certificates bookworm build/base.tar
	made=$$(buildah from scratch) && buildah add --quiet $$made build/base.tar / \
		&& buildah commit --quiet --rm $$made $(LOCAL_BASE)

.PHONY: clean
clean: ## remove .venv and everything that was made
	rm -rf $(VENV) build dist demo.png .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip's own progress bars need its full output; a line for each package says as much.
$(STAMP): pyproject.toml server/pyproject.toml client/attractor_agents/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Attractor needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)."; \
		echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; } >&2
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing what constraints.txt pins (PyTorch and Ray are large: this takes minutes)"
	@{ $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
			-e '.[docs,dev]' -e './server[train]' -e './client/attractor_agents[$(EXTRAS)]' -c constraints.txt || echo FAILED; } | while read -r verb name rest; do \
		case "$$verb" in \
			Collecting|Processing) echo "  $${name##*/}" ;; \
			Downloading) case "$$rest" in *[0-9][0-9][0-9]*MB*|*GB*) echo "    downloading $$rest" ;; esac ;; \
			Installing) case "$$name" in collected) echo "  unpacking" ;; esac ;; \
			FAILED) exit 1 ;; \
		esac; done
	@touch $@
