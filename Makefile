# Needs make and Python 3.11 or newer; every target sets itself up.
PYTHON ?= python3
ARGS ?=
PIP_ARGS ?=
PORT ?= 8000

VENV := .venv
VENV_LOWEST := .venv-lowest
TORCH := torch==2.13.0
comma := ,

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo docs notebooks test test-fast test-lowest lint browser clean

# Empty unless $(PYTHON) runs and is recent enough.
python_ok = $(shell $(PYTHON) -c 'import sys; print("ok" if sys.version_info >= (3, 11) else "")' 2>/dev/null)
need_python = $(if $(python_ok),,$(error Python 3.11 or newer is needed, and "$(PYTHON)" is older or missing; name another one with PYTHON=/path/to/python3))

# $(call set_up,environment,constraints,extras): torch goes first and alone, so that its exact pin decides the build.
# Modules are compiled when they are imported: few of those installed are.
define set_up
$(need_python)
@echo "setting up $(1) from $(2) (the first time takes a few minutes)"
@test -x $(1)/bin/pip || $(PYTHON) -m venv --clear $(1)
@$(1)/bin/python -m pip install -qq --no-compile --disable-pip-version-check $(PIP_ARGS) -c $(2) $(TORCH)
@$(1)/bin/python -m pip install -qq --no-compile --disable-pip-version-check $(PIP_ARGS) -c $(2) -e '.[$(3)]'
@touch $@
endef

# $(call pytest,environment): processes of one thread, one more than cores, for tests that wait; what one process has
# compiled is there for the next.
processes = $(shell expr $$(nproc 2>/dev/null || sysctl -n hw.ncpu) + 1)
pytest = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n $(processes) --dist worksteal $(ARGS)

# Tests of parts that train and attack nothing, or little.
FAST := tests/adversaries tests/erasure tests/losses tests/report tests/tasks tests/attacks/test_metrics.py \
	tests/publish/test_card.py tests/publish/test_card_words.py tests/publish/test_page.py tests/docs/test_contributing.py \
	tests/test_architecture.py tests/test_budgets.py tests/test_packaging.py tests/test_schema.py

help:  ## show this help
	@echo "make TARGET [PYTHON=python3.11] [ARGS='...'] [PIP_ARGS='...']"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1 | \2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s%s\n", $$1, $$2}'
	@echo "On Linux without a GPU, PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu' saves gigabytes."

demo: $(VENV)/.stamp  ## train, attack and report on a small model (ARGS go to `hf-selfdestruct demo`)
	$(VENV)/bin/hf-selfdestruct demo $(ARGS)

docs: $(VENV)/.stamp  ## build the documentation and serve it on http://localhost:8000 (PORT=8000)
	$(VENV)/bin/python -m sphinx -W --keep-going -q docs build/docs
	$(VENV)/bin/python -m http.server $(PORT) --bind 127.0.0.1 --directory build/docs

notebooks: $(VENV)/.stamp  ## run the notebooks and rewrite their outputs (ARGS name some of them)
	$(VENV)/bin/python docs/run_notebooks.py $(ARGS)

test: lint browser  ## lint, then all tests with the tested versions (ARGS go to pytest)
	$(call pytest,$(VENV))

test-fast: lint  ## lint, then tests of about two minutes (ARGS go to pytest)
	$(call pytest,$(VENV)) $(FAST)

test-lowest: $(VENV_LOWEST)/.stamp browser  ## all tests with the lowest supported versions (ARGS go to pytest)
	$(call pytest,$(VENV_LOWEST)) --ignore=tests/docs # built with the tested versions alone

# Cards are looked at in it.
browser:
	@command -v chromium >/dev/null || test "$$(id -u)" = 0 || { echo "the tests need chromium: apt install chromium" >&2; exit 1; }
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

lint: $(VENV)/.stamp  ## style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:  ## remove the environments, caches and build files (results stay)
	rm -rf $(VENV) $(VENV_LOWEST) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find hf_selfdestruct tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.stamp: pyproject.toml setup.cfg constraints.txt
	$(call set_up,$(VENV),constraints.txt,demo$(comma)diffusion$(comma)docs$(comma)sign$(comma)test$(comma)trl)

$(VENV_LOWEST)/.stamp: pyproject.toml setup.cfg constraints-lowest.txt
	$(call set_up,$(VENV_LOWEST),constraints-lowest.txt,demo$(comma)sign$(comma)test)
