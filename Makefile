# Two commands matter: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread a process: runs are placed side by side instead, and numbers do not depend on the machine.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check lint types layers format docs docs-index results results-offline results-online results-claims results-critic results-chains results-rounds results-selection arithmetic studies-offline test-oracle bench bench-scaling bench-gpu bench-studio campaign-labels campaign-labels-postgresql clean help

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

demo: $(VENV)/.installed  ## RLHF against DPO on the embedded town: a table and compare/report.html
	$(BIN)/tastemaker compare --out compare

test: $(VENV)/.installed-dev  ## Set up and pass the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: lint types layers test  ## Exactly what CI runs

lint: $(VENV)/.installed-dev  ## Style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## Types, strict on src
	$(BIN)/pyright

layers: $(VENV)/.installed-dev  ## Imports go downward
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

docs-index: $(VENV)/.installed  ## Write the table of methods from the code
	$(BIN)/python -c "from tastemaker.cli.methods_page import write_page; write_page('docs/methods')"

test-oracle: $(VENV)/.installed-dev  ## Against TRL itself, which this installs
	$(PIP) install --quiet --constraint constraints.txt --editable '.[oracle]'
	$(BIN)/python -m pytest tests/oracle

# Stages that are done are not run again, so this may be interrupted and goes on where it stopped.
HH_RLHF ?= ../shared/data/hh_rlhf_harmless.jsonl.gz
results: $(VENV)/.installed  ## The committed comparisons: the town over 5 seeds, hh-rlhf over 3 where it is there (long)
	OMP_NUM_THREADS=1 $(BIN)/tastemaker compare --preset full --seeds 5 --out docs/results/town
	@if [ -f $(HH_RLHF) ]; then \
	  OMP_NUM_THREADS=1 $(BIN)/tastemaker compare --model tiny --data $(HH_RLHF) --seeds 3 --samples 0 --out docs/results/hh-rlhf-tiny; \
	else echo 'hh-rlhf: $(HH_RLHF) is not there; left as committed (HH_RLHF=... names another place)'; fi

results-offline: $(VENV)/.installed  ## The committed comparison of every offline method, over 3 seeds (25 CPU min)
	OMP_NUM_THREADS=1 $(BIN)/tastemaker compare --preset small --methods all-offline --seeds 3 --samples 6 --out docs/results/town-offline

results-online: $(VENV)/.installed  ## The same of every online method
	OMP_NUM_THREADS=1 $(BIN)/tastemaker compare --preset small --methods all-online --seeds 3 --samples 6 --out docs/results/town-online

# Reads the studies above where they are there; what some claims need beside them it trains itself.
arithmetic: $(VENV)/.installed  ## A verifiable reward, and process against outcome rewards, on the town's additions (5 CPU min)
	OMP_NUM_THREADS=1 $(BIN)/python -m tastemaker.studies.arithmetic --seeds 3 --out docs/results/arithmetic

results-claims: $(VENV)/.installed  ## Published claims against those studies: docs/claims.md (20 CPU min)
	OMP_NUM_THREADS=1 $(BIN)/tastemaker claims --seeds 10 --out docs/results/claims --page docs/claims.md

studies-offline: $(VENV)/.installed  ## Flipped labels and labels that follow length, over 3 seeds (15 CPU min)
	$(BIN)/python benchmarks/label_studies.py --out docs/results/labels

results-critic: $(VENV)/.installed  ## A critic beside people on the town, 3 seeds (6 CPU min)
	OMP_NUM_THREADS=1 $(BIN)/tastemaker study critic --out docs/results/critic

results-selection: $(VENV)/.installed  ## Which pairs to label next: active selection against random on the town, 3 seeds (10 CPU min)
	OMP_NUM_THREADS=1 $(BIN)/tastemaker study selection --out docs/results/selection

results-chains: $(VENV)/.installed  ## Chains of RLHF, DPO, adapters and merges on the town, 3 seeds (some 10 CPU min)
	OMP_NUM_THREADS=1 $(BIN)/tastemaker study chains --out docs/results/chains

results-rounds: $(VENV)/.installed  ## Three online rounds against one with as many labels, on the town, 3 seeds (8 CPU min)
	OMP_NUM_THREADS=1 $(BIN)/tastemaker study rounds --out docs/results/rounds

# BENCH passes options on: make bench BENCH='--tasks dpo --rounds 5'
bench: $(VENV)/.installed  ## Ours and TRL's side by side: benchmarks/results (1 h; resumes where it stopped)
	$(BIN)/python benchmarks/bench.py $(BENCH)

bench-scaling: $(VENV)/.installed  ## How the cost of ours grows with length, group, model, vocabulary, processes
	$(BIN)/python benchmarks/bench.py --scaling $(BENCH)

# A campaign that was interrupted goes on where it stopped; CAMPAIGN='--more 250' makes a part of it.
campaign-labels: $(VENV)/.installed-dev  ## kill -9 of the studio and 16 labellers, 1,000 times: is a label ever lost?
	$(BIN)/python benchmarks/label_kills.py --kills 1000 --out benchmarks/results/label-kills-sqlite.json $(CAMPAIGN)

campaign-labels-postgresql: $(VENV)/.installed-dev  ## The same on PostgreSQL, 100 times
	$(BIN)/python benchmarks/label_kills.py --kills 100 --postgresql --out benchmarks/results/label-kills-postgresql.json $(CAMPAIGN)

bench-studio: $(VENV)/.installed-dev  ## 50 people labelling at once: how long the studio takes to answer
	$(BIN)/python benchmarks/label_load.py --out benchmarks/results/label-load.json

bench-gpu: $(VENV)/.installed  ## The same on one CUDA device, at the shapes of real models
	$(BIN)/python benchmarks/gpu.py $(BENCH)

clean:  ## Remove what was made
	rm -rf $(VENV) site compare .pytest_cache .ruff_cache
