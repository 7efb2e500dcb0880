# What a person and CI type. `make help` lists the verbs.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 3000
GRPC_PORT ?= $(shell echo $$(($(PORT) + 1)))
export BENTOML_DO_NOT_TRACK ?= True
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Without bytecode on disk every start takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE
# Code of elsewhere has no place in this environment.
unexport PYTHONPATH PYTHONHOME

demo model run bench limits bench-stream: export VIGIL_STATE_DIR ?= $(CURDIR)/state
demo model run bench limits bench-stream: export VIGIL_GRPC_PORT ?= $(GRPC_PORT)

CLIENTS := build/clients
TOOLS := build/tools
DOCS := .venv-docs
# What fetches them ends with 3 where this machine cannot have a part, and has said so: tests name what they skip.
WITHOUT := [ $$? -eq 3 ]

# BASE=debian: without a registry, as in CI (as root, on Debian)
ENGINE ?= $(if $(or $(filter debian,$(BASE)),$(shell command -v podman)),podman,docker)
IMAGE ?= localhost/vigil:0.1.0
# The release of the bases, and the Python of each.
DEBIAN ?= bookworm
PYTHON_bookworm := 3.11
PYTHON_trixie := 3.13
BASE ?= docker.io/library/python:$(PYTHON_$(DEBIAN))-slim-$(DEBIAN)
BUILD ?= docker.io/library/python:$(PYTHON_$(DEBIAN))-$(DEBIAN)
image: export ENGINE := $(ENGINE)
image: export IMAGE := $(IMAGE)
image: export BASE := $(BASE)
image: export BUILD := $(BUILD)
image: export DEBIAN := $(DEBIAN)
image: export PLATFORM := $(PLATFORM)
ifeq ($(BASE),debian)
image: export CONTAINERS_CONF := $(CURDIR)/deploy/debian/containers.conf
endif

SUITES ?= bookworm trixie
N ?= auto
TESTS := $(BIN)/python -m pytest -n $(N) --dist loadfile --no-loadscope-reorder
SEED := $(if $(filter random,$(ORDER)),$(shell echo $$RANDOM),$(ORDER))

.PHONY: help setup clients tools docs chart-docs chart-live model run demo image bare test test-fast check format bench limits load bench-stream kafka pins clean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Everything into .venv of this checkout; PYTHON=python3.12: by that one, else by the newest it knows
	@PYTHON="$(PYTHON)" PORT="$(PORT)" GRPC_PORT="$(GRPC_PORT)" requirements/environment $(VENV) $(MAKECMDGOALS)

clients: $(CLIENTS)/ready ## KServe's and MLServer's clients, NVIDIA's perf_analyzer, OpenSSF's model-signing: for tests

$(CLIENTS)/ready: requirements/clients requirements/kserve.txt requirements/mlserver.txt requirements/model-signing.txt requirements/perf-analyzer.txt | setup
	@requirements/clients $(CLIENTS) && touch $@ || $(WITHOUT)

tools: $(TOOLS)/ready ## What tests need besides: Prometheus, Alertmanager, a Redis with TLS, Compose's parser, Helm and what checks the chart

$(TOOLS)/ready: requirements/tools requirements/debian requirements/helm.txt | setup
	@requirements/tools $(TOOLS) && touch $@ || $(WITHOUT)

docs: $(DOCS)/ready ## These documents and the API as a site, build/docs/index.html; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --quiet --strict

$(DOCS)/ready: requirements/docs.txt | setup
	@uv venv --quiet --clear --python $(BIN)/python $(DOCS)
	@uv pip install --quiet --python $(DOCS)/bin/python --no-deps --require-hashes -r $< && touch $@

chart-docs: $(TOOLS)/ready ## helm/README.md, from the comments in helm/values.yaml, and what the templates know of it
	@cp helm/values.yaml helm/files/values.yaml
	@$(TOOLS)/helm-docs --log-level warning --chart-search-root helm --sort-values-order file

chart-live: export KEDA := $(KEDA)
chart-live: $(TOOLS)/ready ## The chart on the cluster that KUBECONFIG names, with IMAGE; without, on one of its own, with build/image/image.tar; KEDA=1: with KEDA
	@tests/cluster/run $(BIN)/python -m pytest -m '$(if $(KEDA),cluster or keda,cluster)' tests/cluster

demo: setup ## From nothing to scored payments, and a summary; then it ends
	@./demo.sh $(PORT) $(GRPC_PORT)

model: setup ## A trained and optimized model, where the store has none that fits
	@vigil models verify payments >/dev/null 2>&1 || { vigil train && vigil optimize; }

run: model ## The same set-up, then the service stays up (trains only where there is no model yet)
	@exec bentoml serve --host 127.0.0.1 --port $(PORT)

image: model ## The image, tried out: build/image/image.tar (needs podman or docker; BASE=debian: neither, nor a registry); PLATFORM=linux/amd64,linux/arm64: of both
	@deploy/image
	@$(BIN)/python -m pytest -m image tests/deploy

bare: ## The README's two commands in a bare Debian 12 and 13, as an ordinary user; FULL=1: all tests (root, on Debian)
	@tests/bare/run $(if $(FULL),test,test-fast) $(SUITES)

test: setup clients tools $(DOCS)/ready ## All tests, in parallel (those of Kafka need java and mvn); ONLY=tests/features: some; ORDER=random: in any order
	@$(if $(ORDER),echo "again in this order: make test ORDER=$(SEED)")
	@$(TESTS) $(if $(ORDER),--order $(SEED)) $(ONLY)

test-fast: setup ## The fast ones of them, with nothing but Python: in two minutes
	@$(TESTS) -m 'not slow'

check: setup ## ruff, and mypy as on the oldest and newest Python and on macOS
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy && $(BIN)/mypy --python-version 3.13 && $(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin

format: setup
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

bench: model ## Vigil beside its peers, in one run (needs wrk and h2load); ONLY=vigil,stock for some of them
	@$(BIN)/python -m loadtest.bench $(if $(ONLY),--only $(ONLY),--write docs/benchmarks.md)

limits: model ## What one Vigil holds by itself: rates, tail, start, memory, a kill, overload
	@$(BIN)/python -m loadtest.limits --write docs/benchmarks.md

load: $(if $(HOST),setup,model) ## Two minutes by Locust: reports/load.html, and 1 where a gate breaks; SCENARIO=ramp, HOST=http://... GRPC_HOST=...
	@$(BIN)/python -m loadtest.load $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(HOST),--host $(HOST)) $(if $(GRPC_HOST),--grpc-host $(GRPC_HOST))

bench-stream: model ## Kafka to Kafka: rate, latency, recovery, flatness (needs java and mvn)
	@$(BIN)/python -m loadtest.stream

kafka: setup ## A Kafka broker in the foreground on 127.0.0.1:9092, with the topics (needs java and mvn)
	@exec $(BIN)/python -m testbed.kafka

pins: setup ## Compiles requirements/*.txt anew
	@requirements/compile

clean: ## Removes what was made, the model store excepted
	@rm -rf $(VENV) $(DOCS) .venv-peers state build reports
