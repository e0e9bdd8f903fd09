# Two commands to know: `make run` and `make test`. Both set up all that they need first.
PYTHON ?= python3
UV := .venv/bin/uv

.PHONY: run test check bench demo-model clean help
.DEFAULT_GOAL := help

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/ready: pyproject.toml uv.lock
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) sync --quiet --frozen --inexact
	@touch $@

run: .venv/ready  ## sets up and starts the server with the embedded demo model
	.venv/bin/unbroken serve

tests/node/node_modules: tests/node/package-lock.json
	cd tests/node && npm ci --silent --no-audit --no-fund
	@touch $@

test: .venv/ready tests/node/node_modules  ## sets up and passes the tests
	.venv/bin/python -m pytest

check: .venv/ready  ## lint, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/ready  ## our gateway beside nginx and LiteLLM on this machine; see benchmarks/README.md
	.venv/bin/python benchmarks/run.py

demo-model:  ## trains the demo model again (needs what demo_model/README.md says)
	$(PYTHON) demo_model/train.py

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache
