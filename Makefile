# Set-up and daily commands. Needs Python 3.11 or newer; everything is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL := $(BIN)/python $(PIP_INSTALL)
BENCH_VENV := .venv-bench
DOCS_VENV := .venv-docs
# By file, so that what the tests of a file share is set up only once: builds, environments, a Ray cluster.
PYTEST := -m pytest --quiet --numprocesses auto --dist loadfile
# Tests that line tracing slows down the most, and that cover no lines which others do not.
UNTRACED := tests/langchain/test_batches_ray.py \
	$(patsubst %,tests/both/test_%.py,abandoned_streams any_conversation broken_calls messages_fuzz processes servers setups) \
	$(patsubst %,tests/project/test_%.py,cost_per_chunk linear_growth notebooks packaging site snippets) \
	$(patsubst %,tests/response/test_%.py,captures_cut response_fuzz server_errors_fuzz)
# Tests of what may differ between the HTTP engines; the others run on httpx2 only.
ON_BOTH_ENGINES := tests/client tests/transport \
	$(patsubst %,tests/both/test_%.py,abandoned_streams changed_settings lab life secrets secrets_shown)
NOX_PYTHONS = $(strip $(PYTHONS) $(filter 3.%,$(ONLY)))
NOX_KEYWORDS = $(filter-out 3.%,$(ONLY))
NOX_SESSIONS = $(if $(NOX_KEYWORDS),--keywords "$(NOX_KEYWORDS)") $(if $(NOX_PYTHONS),--pythons $(NOX_PYTHONS))

# The tests start many processes: each would compile the sources and the tests again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo notebooks record-notebooks docs test check record bench faults gateways soak load batches fuzz dist
.PHONY: matrix clean
.DEFAULT_GOAL := help

help:  ## Explain the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## Stream a LangChain chain and a LlamaIndex chat: live with credentials, else from recordings
	@$(BIN)/python -m demo

notebooks: $(VENV)/.test  ## Run the notebooks and store their outputs: live with credentials, else from recordings
	@$(BIN)/python -m notebooks $(NOTEBOOKS)

docs: $(DOCS_VENV)/.done  ## Build the pages, notebooks and API reference into site/, and check their links
	@$(DOCS_VENV)/bin/python -m notebooks.pages .pages
	@$(DOCS_VENV)/bin/zensical build --clean --strict
	@echo 'Open site/index.html. For the search: $(PYTHON) -m http.server --directory site'

test: $(VENV)/.test  ## All that CI does: check, then the tests on httpx2 and on httpx, with coverage
	@$(MAKE) --no-print-directory check
	@$(BIN)/coverage erase
	TIR_QWEN_HTTP_ENGINE=httpx2 $(BIN)/coverage run $(PYTEST) $(UNTRACED:%=--ignore=%)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	TIR_QWEN_HTTP_ENGINE=httpx2 $(BIN)/python $(PYTEST) $(UNTRACED)
	TIR_QWEN_HTTP_ENGINE=httpx $(BIN)/python $(PYTEST) $(ON_BOTH_ENGINES)

check: $(VENV)/.test  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

record: $(VENV)/.test  ## Re-record the cassettes: SETS="old=http://127.0.0.1:8080 new=..." or SETS=tir (see tests/data/cassettes)
	$(BIN)/python -m pytest tests/both tests/langchain tests/llama_index $(foreach set,$(SETS),--record $(set))

record-notebooks: $(VENV)/.test  ## Re-record the notebooks' exchanges, at the endpoint of the environment: NOTEBOOKS="05_batches ..."
	@$(BIN)/python -m notebooks.record $(NOTEBOOKS)

bench: $(BENCH_VENV)/.done  ## Benchmark each layer, the bare frameworks and other integrations: nine minutes (RUNS=3: thrice)
	@$(BENCH_VENV)/bin/python -m benchmarks --runs $(or $(RUNS),1)

faults: $(VENV)/.test  ## Play a table of faults to both clients, on each engine, and print the outcomes
	@$(BIN)/python -m stress.faults

gateways: $(VENV)/.demo  ## Play faults of real gateways, proxies and networks to both clients: four minutes (ONLY="nginx": some)
	@$(BIN)/python -m stress.gateways $(foreach words,$(ONLY),--only $(words))

soak: $(VENV)/.demo  ## Abandon 10,000 calls at random points, on each engine, and look for leaks
	@$(BIN)/python -m stress.soak

load: $(VENV)/.demo  ## Send 500 concurrent streams and 5,000 queued calls through one instance, on each engine
	@$(BIN)/python -m stress.load

batches: $(VENV)/.test  ## Run 2,000 prompts with a program that is killed twice, then on Ray; measure 1,000,000 rows
	@$(BIN)/python -m stress.batches
	@$(BIN)/python -m stress.million

fuzz: $(VENV)/.test  ## Fuzz decoders, parsers and message mappings, coverage-guided, for a minute each
	@$(INSTALL) atheris
	@$(BIN)/python -m stress.fuzz

dist: $(VENV)/.test  ## Build sdist and wheel into dist/, check them, and list the wheel's contents
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m zipfile --list dist/*.whl

matrix: $(VENV)/.test  ## Test the wheel in clean environments (ONLY=lowest PYTHONS=3.12: some; WITH="langchain-core==1.8.0")
	@$(BIN)/nox $(if $(WITH),--session suite_with -- $(WITH),--parallel 2 $(NOX_SESSIONS))

clean:  ## Remove the environment and all caches
	rm -rf $(VENV) $(BENCH_VENV) $(DOCS_VENV) .nox .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf dist .pages site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $*

$(BENCH_VENV)/.done: pyproject.toml constraints.txt benchmarks/requirements.txt | $(BENCH_VENV)/bin/python
	$(BENCH_VENV)/bin/python $(PIP_INSTALL) --editable ".[langchain,llama-index]" --requirement benchmarks/requirements.txt
	@touch $@

$(DOCS_VENV)/.done: pyproject.toml constraints.txt | $(DOCS_VENV)/bin/python
	$(DOCS_VENV)/bin/python $(PIP_INSTALL) --editable ".[docs]"
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[langchain,llama-index]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[langchain,llama-index,test]"
	@touch $@ $(VENV)/.demo
