# The only way to do anything here. `make help` lists every target.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACKAGES := contract operator trainer-image sandbox
SOURCES := $(PACKAGES:%=%/src) tests bench examples tools

.PHONY: help
help: ## List every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## Create .venv with everything that the other targets need

$(INSTALLED): requirements/constraints.txt requirements/dev.txt requirements/dev-no-deps.txt $(PACKAGES:%=%/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV) (PyTorch is the large one) ..."
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt \
	  --requirement requirements/dev.txt $(PACKAGES:%=--editable ./%)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt \
	  --no-deps --requirement requirements/dev-no-deps.txt
	@touch $@

.PHONY: demo
demo: $(INSTALLED) ## Run two SFTJobs from apply to Succeeded: no cluster, no GPU, no kubectl
	@$(BIN)/python examples/quickstart/demo.py

.PHONY: sandbox
sandbox: $(INSTALLED) ## Start the local API server, a node and the operator; stays up until Ctrl-C
	@$(BIN)/python examples/quickstart/stack.py

.PHONY: test
test: $(INSTALLED) ## Run every test but those that build images
	$(BIN)/pytest -n 2 --dist loadfile --ignore tests/image/test_images.py

.PHONY: test-cluster
test-cluster: $(INSTALLED) ## Test a cluster: KUBECONFIG=FILE, and REGISTRY and STORAGE_CLASS if needed (docs/testing.md)
	@test -n "$(KUBECONFIG)" || { echo "name the cluster: make test-cluster KUBECONFIG=FILE" >&2; exit 2; }
	SFTJOB_TEST_KUBECONFIG="$(abspath $(KUBECONFIG))" SFTJOB_TEST_REGISTRY="$(REGISTRY)" \
	  SFTJOB_TEST_STORAGE_CLASS="$(STORAGE_CLASS)" $(BIN)/pytest -v --tb=short -n 0 $(ARGS) tests/cluster

.PHONY: test-image
test-image: $(INSTALLED) ## Build both images twice, run them, and look into them (root; see image-tools)
	$(BIN)/pytest -n 0 tests/image

.PHONY: fmt
fmt: $(INSTALLED) ## Format the code
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix --quiet $(SOURCES)

.PHONY: lint
lint: $(INSTALLED) ## Check style, types, layers and sizes
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/python tools/check_size.py $(PACKAGES:%=%/src) bench examples tools
	$(BIN)/lint-imports
	$(BIN)/mypy $(PACKAGES:%=%/src) examples bench tools

.PHONY: generate
generate: $(INSTALLED) ## Write the generated files: crds/sftjobs.yaml, docs/reference, parts of the chart and of gitops/
	$(BIN)/python -m sftjob_operator.api.crd crds/sftjobs.yaml
	$(BIN)/python -m sftjob_operator.api.reference docs/reference/sftjob.md
	$(BIN)/python tools/chart.py
	$(BIN)/python tools/dashboard.py
	$(BIN)/python tools/gitops.py

.PHONY: verify
verify: generate ## Fail if a generated file differs from the committed one
	git diff --exit-code -- crds/sftjobs.yaml docs/reference/ charts/ gitops/

.PHONY: lock
lock: $(INSTALLED) ## Write the locks that the images are built from, in the versions of requirements/constraints.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/lock.py

.PHONY: images
images: ## Build both images: BASE, TORCH_INDEX_URL, TRACKERS, WHEELS and REGISTRY can be given (docs/images.md)
	@$(PYTHON) tools/images.py $(if $(BASE),--base $(BASE)) $(if $(TORCH_INDEX_URL),--torch-index-url $(TORCH_INDEX_URL)) \
	  $(if $(WHEELS),--wheels $(WHEELS)) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(TRACKERS),--trackers $(TRACKERS))

.PHONY: image-tools
image-tools: ## Install what builds and runs images on Debian (root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends buildah podman runc mmdebstrap

.PHONY: bench-operator
bench-operator: $(INSTALLED) ## Measure the operator: requests, latency, CPU and memory for 1, 100 and 1000 jobs, and reports
	PYTHONPATH=examples/quickstart:bench $(BIN)/python bench/operator/operator_bench.py
	PYTHONPATH=tests:examples/quickstart:bench $(BIN)/python bench/operator/reports_bench.py

.PHONY: bench-trainer
bench-trainer: $(INSTALLED) ## Measure the trainer: tokens per second against plain TRL, by default and tuned by hand
	PYTHONPATH=examples/quickstart:bench $(BIN)/python bench/trainer/trainer_bench.py

.PHONY: bench-startup
bench-startup: $(INSTALLED) ## Measure the trainer: seconds to the first step against plain TRL, and to refuse a config
	PYTHONPATH=examples/quickstart:bench:bench/trainer $(BIN)/python bench/startup/startup_bench.py

.PHONY: bench-quality
bench-quality: $(INSTALLED) ## Measure answers to held-out questions before and after tuning
	PYTHONPATH=examples/quickstart:bench $(BIN)/python bench/quality/quality_bench.py

.PHONY: chaos
chaos: $(INSTALLED) ## Play ten minutes of chaos on real trainers: kills, lost connections, API faults (ARGS="--seed 1 --minutes 5")
	PYTHONPATH=tests:examples/quickstart:bench:bench/operator $(BIN)/python -m chaos.chaos $(ARGS)

.PHONY: clean
clean: ## Remove everything that can be made again
	rm -rf $(VENV) .sandbox .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name '*.egg-info' -prune -exec rm -rf {} +
