# The only way to do anything here. `make help` lists every target.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACKAGES := contract operator trainer-image sandbox dev
SOURCES := $(PACKAGES:%=%/src) trainer-image/check_triton.py tests bench examples tools

.PHONY: help
help: ## List every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## Create .venv with everything that the other targets need

$(INSTALLED): tools/install.py requirements/constraints.txt requirements/dev.txt requirements/dev-no-deps.txt \
  $(PACKAGES:%=%/pyproject.toml)
	@echo "Installing packages into $(VENV) (PyTorch is the large one) ..."
	$(PYTHON) tools/install.py $(VENV) $(PACKAGES)
	@touch $@

.PHONY: demo
demo: $(INSTALLED) ## Run two SFTJobs from apply to Succeeded: no cluster, no GPU, no kubectl
	@$(BIN)/python -m examples.quickstart.demo

.PHONY: sandbox
sandbox: $(INSTALLED) ## Start the local API server, a node and the operator until Ctrl-C; OPERATOR=no: no operator
	@$(BIN)/python -m sftjob_dev sandbox $(if $(filter no,$(OPERATOR)),--no-operator)

.PHONY: operator
operator: $(INSTALLED) ## Run the operator of a sandbox that was started with OPERATOR=no, until Ctrl-C
	@$(BIN)/python -m sftjob_dev operator

.PHONY: test
test: $(INSTALLED) ## Run the quick tests: eight minutes on two cores; T=PATH: every test there
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(or $(T),-m "not slow")

.PHONY: test-all
test-all: $(INSTALLED) ## Run every test, also the demo, chaos and the image builds (root; see image-tools)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

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
lint: $(INSTALLED) ## Check style, words, types, layers and sizes
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/python tools/check_size.py $(PACKAGES:%=%/src) bench examples tools
	$(BIN)/python tools/check_english.py
	$(BIN)/lint-imports
	$(BIN)/mypy $(PACKAGES:%=%/src) trainer-image/check_triton.py examples bench tools

.PHONY: generate
generate: $(INSTALLED) figures ## Write the generated files: CRD, docs/reference, docs/figures, docs/architecture.md, chart and gitops/
	$(BIN)/python -m sftjob_operator.api.crd crds/sftjobs.yaml
	$(BIN)/python -m sftjob_operator.api.reference docs/reference/sftjob.md
	$(BIN)/python tools/chart.py
	$(BIN)/python tools/dashboard.py
	$(BIN)/python tools/gitops.py
	$(BIN)/python tools/architecture.py

.PHONY: figures
figures: $(INSTALLED) ## Draw docs/figures
	$(BIN)/python -m tools.figures.draw

.PHONY: record-figures
record-figures: $(INSTALLED) ## Train the runs whose loss curves docs/figures shows, then draw
	$(BIN)/python -m tools.figures.record
	$(BIN)/python -m tools.figures.draw

.PHONY: verify
verify: generate ## Fail if a generated file differs from the committed one
	git diff --exit-code -- crds/sftjobs.yaml docs/reference/ docs/figures/ docs/architecture.md charts/ gitops/

.PHONY: lock
lock: $(INSTALLED) ## Write the locks that the images are built from, in the versions of requirements/constraints.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/lock.py

.PHONY: images
images: ## Build both images: BASE, TORCH_INDEX_URL, DEVICE, TRACKERS, WHEELS, REGISTRY can be set (docs/images.md)
	@$(PYTHON) tools/images.py $(if $(BASE),--base $(BASE)) $(if $(TORCH_INDEX_URL),--torch-index-url $(TORCH_INDEX_URL)) \
	  $(if $(DEVICE),--device $(DEVICE)) $(if $(WHEELS),--wheels $(WHEELS)) $(if $(REGISTRY),--registry $(REGISTRY)) \
	  $(if $(TRACKERS),--trackers $(TRACKERS))

.PHONY: image-tools
image-tools: ## Install what builds and runs images on Debian (root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends buildah podman runc mmdebstrap

.PHONY: bench-operator
bench-operator: $(INSTALLED) ## Measure the operator: requests, latency, CPU and memory for 1, 100 and 1000 jobs, and reports
	$(BIN)/python -m bench.operator.operator_bench
	PYTHONPATH=tests $(BIN)/python -m bench.operator.reports_bench

.PHONY: bench-trainer
bench-trainer: $(INSTALLED) ## Measure the trainer: tokens per second against plain TRL, by default and tuned by hand
	$(BIN)/python -m bench.trainer.trainer_bench

.PHONY: bench-startup
bench-startup: $(INSTALLED) ## Measure the trainer: seconds to the first step against plain TRL, and to refuse a config
	$(BIN)/python -m bench.startup.startup_bench

.PHONY: bench-quality
bench-quality: $(INSTALLED) ## Measure answers to held-out questions before and after tuning
	$(BIN)/python -m bench.quality.quality_bench

.PHONY: chaos
chaos: $(INSTALLED) ## Play ten minutes of chaos on real trainers: kills, lost connections, API faults (ARGS="--seed 1 --minutes 5")
	PYTHONPATH=tests $(BIN)/python -m chaos.chaos $(ARGS)

.PHONY: clean
clean: ## Remove everything that can be made again
	rm -rf $(VENV) .sandbox .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name '*.egg-info' -prune -exec rm -rf {} +
