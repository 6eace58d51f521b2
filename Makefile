# Everything runs in .venv, made by `make setup` from constraints.txt; nothing else is needed but Python >= 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= demo-data
SEEDS ?= 3
MARKDOWN := README.md CHANGELOG.md docs
TEST_PROCESSES ?= 2
# What `make bench` runs; selection takes hours, and goes on where it was.
BENCH ?= similarity transfer transfer-choices norm-statistics child-choices warm-children supernet variants selection gain-model
# Two spinning OpenMP threads on a shared machine are slower than one: wait passively.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup demo test lint format site protos contract bench results clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed  ## make .venv and install everything into it

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: setup  ## run a stream of real tasks through the whole service (DATA=demo-data keeps it; run again to continue it)
	$(BIN)/python examples/demo.py --data-dir $(DATA)

test: setup  ## run the tests, in two processes (TEST_PROCESSES=2)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

lint: setup  ## ruff, mypy --strict, buf lint and breaking, Markdown
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/contract.binpb
	$(BIN)/mdformat --check $(MARKDOWN)
	$(BIN)/python docs/tools/check_markdown.py

format: setup  ## let ruff and mdformat format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mdformat $(MARKDOWN)

site: setup  ## build the documents, with API and wire reference, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

protos: setup  ## regenerate the Python of the wire contract
	$(BIN)/python protos/generate.py

contract: setup  ## keep the contract of today as the one that must not break; raise PROTOCOL first where it does
	$(BIN)/buf build --exclude-source-info -o protos/contract.binpb

bench: setup  ## run the benchmarks, figures to results/ (BENCH="supernet variants" for some; QUICK=--quick for a smoke)
	mkdir -p results
	set -e; for name in $(BENCH); do $(BIN)/python -m benchmarks $$name $(QUICK) --json results/$$name.json; done

results: setup  ## run the experiment of docs/results.md again, hours; goes on where it was (SEEDS=3)
	$(BIN)/python -m benchmarks continual --seeds $(SEEDS) --json results/continual.json --docs docs/results.md

clean:  ## remove what make made, but not the demo's data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache results site
