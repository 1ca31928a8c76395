# `make help` lists the targets. `make study` and `make test` install first. PYTHON=... chooses a Python, 3.11 to 3.13.
PARAMS ?= params/study.yaml
ARGS ?=
EXTRAS ?= dev
VENV ?= .venv
PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3 python,$(shell \
	$(p) -c 'import sys, venv, ensurepip; assert (3, 11) <= sys.version_info[:2] <= (3, 13); print("$(p)")' 2>/dev/null)))
BIN := $(VENV)/bin

.PHONY: help env quick study test test-fast ui lab examples bench lint lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.installed  ## install into .venv, and nothing else

quick: $(VENV)/.installed  ## a first result: a small study, two minutes on two free cores, up to six on older ones
	$(BIN)/cxr study params/quick.yaml $(ARGS)

study: $(VENV)/.installed  ## run a study; PARAMS=params/study.yaml ARGS='--set data=FOLDER'
	$(BIN)/cxr study $(PARAMS) $(ARGS)

test: $(VENV)/.installed  ## all tests, two files at a time; each worker takes about 2 GiB
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(VENV)/.installed  ## tests that are not marked slow
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

ui: $(VENV)/.installed  ## the MLflow UI, for this machine only
	$(BIN)/cxr ui $(ARGS)

lab: $(VENV)/.installed  ## JupyterLab: notebooks/, and the executed notebooks of a study in mlruns/studies/NAME
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

NAME ?= phantom
examples: $(VENV)/.installed  ## write docs/examples from the finished study NAME, in seconds
	$(BIN)/python docs/examples/render.py $(NAME)

BENCH ?= attribution training scoring data growth kernels drift
bench: $(VENV)/.installed  ## the benchmarks of docs/speed.md, some 17 minutes on two cores; ARGS=--small takes seconds
	for name in $(BENCH); do printf '\n== %s\n' $$name; $(BIN)/python tests/benchmarks/bench_$$name.py $(ARGS) || exit 1; done

lint: $(VENV)/.installed  ## check the style of the code
	$(BIN)/ruff check .

$(VENV)/.installed: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 with venv found: install one, or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[$(EXTRAS)]'
	touch $@

lock: $(VENV)/.installed  ## choose versions again; requirements.lock is the one place that pins them
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --no-annotate \
		--no-header --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

clean:  ## remove the environment and what tools leave
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
