# What a person and CI type. `make help` lists the verbs.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 3000
GRPC_PORT ?= 3001
export BENTOML_DO_NOT_TRACK ?= True
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Without bytecode on disk every start takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE

demo model run bench limits bench-stream: export VIGIL_STATE_DIR ?= $(CURDIR)/state
demo model run bench limits bench-stream: export VIGIL_GRPC_PORT ?= $(GRPC_PORT)

CLIENTS := build/clients
TOOLS := build/tools

# BASE=debian: without a registry, as in CI (as root, on Debian)
ENGINE ?= $(if $(or $(filter debian,$(BASE)),$(shell command -v podman)),podman,docker)
IMAGE ?= localhost/vigil:0.1.0
BASE ?= docker.io/library/python:3.11-slim-bookworm
BUILD ?= docker.io/library/python:3.11-bookworm
image: export ENGINE := $(ENGINE)
image: export IMAGE := $(IMAGE)
image: export BASE := $(BASE)
image: export BUILD := $(BUILD)
ifeq ($(BASE),debian)
image: export CONTAINERS_CONF := $(CURDIR)/deploy/debian/containers.conf
endif

.PHONY: help setup clients tools chart-docs chart-live model run demo image test check format bench limits load bench-stream kafka pins clean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/ready ## Everything into .venv of this checkout

$(VENV)/ready: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Vigil needs Python 3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

clients: $(CLIENTS)/ready ## KServe's and MLServer's clients and NVIDIA's perf_analyzer, which tests serve

$(CLIENTS)/ready: requirements/clients requirements/kserve.txt requirements/mlserver.txt requirements/perf-analyzer.txt | $(VENV)/ready
	@requirements/clients $(CLIENTS)
	@touch $@

tools: $(TOOLS)/prometheus-ready $(TOOLS)/compose-ready $(TOOLS)/ready ## What tests need besides: Prometheus, Alertmanager, Compose's parser, Helm and what checks the chart (needs go)

$(TOOLS)/prometheus-ready: requirements/prometheus
	@requirements/prometheus $(TOOLS)
	@touch $@

$(TOOLS)/compose-ready: requirements/compose
	@requirements/compose $(TOOLS)
	@touch $@

$(TOOLS)/ready: requirements/tools requirements/helm.txt | $(VENV)/ready
	@requirements/tools $(TOOLS)
	@touch $@

chart-docs: $(TOOLS)/ready ## helm/README.md, from the comments in helm/values.yaml
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

image: model ## The image, tried out: build/image/image.tar (needs podman or docker; BASE=debian: neither, nor a registry)
	@deploy/image
	@$(BIN)/python -m pytest -m image tests/deploy

test: setup clients tools ## All tests (those of Kafka need java and mvn)
	@$(BIN)/python -m pytest

check: setup ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

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
	@exec $(BIN)/python -m loadtest.kafka

pins: setup ## Compiles requirements/*.txt anew
	@requirements/compile

clean: ## Removes what was made, the model store excepted
	@rm -rf $(VENV) .venv-peers state build reports
