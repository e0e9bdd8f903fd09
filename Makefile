# Two commands to know: `make run` and `make test`. Both set up all that they need first.
# ARGS are handed on: make run ARGS="--port 9000", make test ARGS="tests/wire -x".
PYTHON ?= python3
ARGS ?=
UV := .venv/bin/uv
NODE_MODULES := tests/node/node_modules/.package-lock.json

.PHONY: run test check format bench demo-model wheel clean help
.DEFAULT_GOAL := help

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/ready: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"{sys.executable} is Python {sys.version.split()[0]}; 3.11 is needed: make PYTHON=python3.12 …")'
	test -x $(UV) || { $(PYTHON) -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check uv; }
	$(UV) sync --quiet --frozen --inexact
	@touch $@

run: .venv/ready  ## sets up and starts the server with the embedded demo model
	.venv/bin/unbroken serve $(ARGS)

# npm writes this file last. Without npm the tests in JavaScript say why they are skipped; on CI they fail.
$(NODE_MODULES): tests/node/package.json tests/node/package-lock.json
	@if command -v npm >/dev/null; then echo "npm ci"; cd tests/node && npm ci --loglevel=error --no-audit --no-fund; fi

test: .venv/ready $(NODE_MODULES)  ## sets up and passes the tests
	.venv/bin/python -m pytest $(ARGS)

check: .venv/ready  ## lint, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/ready  ## puts the sources into shape
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/ready  ## our gateway beside nginx and LiteLLM on this machine; see benchmarks/README.md
	.venv/bin/python benchmarks/run.py $(ARGS)

demo-model:  ## trains the demo model again (needs what demo_model/README.md says)
	$(PYTHON) demo_model/train.py

wheel: .venv/ready  ## dist/*.whl, with the demo model in it
	$(UV) build --wheel

clean:  ## removes what was made, sources excepted
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/node/node_modules
