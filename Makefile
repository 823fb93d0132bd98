# One command each; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
# axe-core looks at the pages for faults of accessibility; the others run what docs/serve-elsewhere.md shows
NPM := axe-core@4.14.1 onnxruntime-node@1.30.0 onnxruntime-web@1.30.0 sharp@0.35.5
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

define install
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --progress-bar off --constraint constraints.txt --editable $(1)
	@touch $@
endef

.PHONY: help install repro check test test-install bench bench-train bench-embed bench-index bench-serve verify clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

install: $(VENV)/installed  ## make the environment, .venv, and nothing more

repro: $(VENV)/installed  ## run the whole chain: images -> encoder -> index -> scores
	dvc repro

check: $(VENV)/installed-test  ## lint, format, types, import rules, the shape of the house
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest --quiet tests/test_rooms.py

test: check  ## everything that must hold: `make check`, then the tests, on every core
	pytest -m "not installs" --numprocesses auto --maxprocesses 8 --dist loadgroup

test-install: $(VENV)/installed-test  ## the built wheel in fresh environments; asks the package index
	pytest -m installs

bench: bench-train bench-embed bench-index bench-serve  ## every speed beside its peers', both sides in one run

bench-train: $(VENV)/installed-bench  ## the training step beside lightly's (ARCHIVE=cifar10.tar)
	python -m benchmarks.simclr_step $(if $(ARCHIVE),--archive $(ARCHIVE))
	python -m benchmarks.profile_step

bench-embed: $(VENV)/installed-bench  ## the embedding loop, onnxruntime and torch; int8 and float32
	python -m benchmarks.encoder.embedding
	python -m benchmarks.encoder.precision

bench-index: $(VENV)/installed-bench  ## the index that auto chooses (AUTOFAISS=python of its venv)
	python -m benchmarks.index.recall $(if $(AUTOFAISS),--autofaiss $(AUTOFAISS))

bench-serve: $(VENV)/installed-bench  ## the service beside a bare loop, on the outputs of make repro
	python -m benchmarks.serve

verify: $(VENV)/installed  ## run the committed chain twice, in two clones, and compare every hash of dvc.lock
	rm -rf .lookalike/verify
	for side in first second; do \
		git clone --quiet . .lookalike/verify/$$side; \
		(cd .lookalike/verify/$$side && dvc repro); \
	done
	diff .lookalike/verify/first/dvc.lock .lookalike/verify/second/dvc.lock
	@echo "verify: every hash of dvc.lock is the same in both"

clean:  ## remove the environment; data/ and the DVC cache stay
	rm -rf $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 6 GB, several minutes the first time"
	$(call install,'.[train]')

$(VENV)/installed-test: $(VENV)/installed
	$(call install,'.[test]')
	if command -v npm >/dev/null; then npm install --silent --no-save --ignore-scripts --prefix $(VENV)/npm $(NPM); fi

$(VENV)/installed-bench: $(VENV)/installed
	$(call install,'.[bench]')
