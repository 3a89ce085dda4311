# make demo     generate and measure a video of a talking person with the built-in model
# make test     run every test
# make check    check style, types, layers of packages and language
# make soak     run the service for half an hour, with killed processes and a lost machine
# make docs     build the documentation in site/; the reference is generated from the code
# make format   fix what ruff can fix by itself
# make clean    remove the virtual environment and caches
#
# If there is no .venv, a virtual environment with the versions of constraints.txt is created there.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# pip compiles on one core; this uses all, and leaves out the tests inside packages
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
COMPILE := $(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib >/dev/null || true

.PHONY: demo test soak check format docs clean

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) "$(TORCH)"
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints.txt
	$(INSTALL) --editable ".[evaluate]"
	$(COMPILE)
	touch $@

$(VENV)/.ready: $(VENV)/.torch pyproject.toml constraints.txt
	$(INSTALL) --editable ".[dev]"
	$(COMPILE)
	touch $@

demo: $(VENV)/.demo
	$(BIN)/humo generate --config examples/demo.toml --output output/demo.mp4 --overwrite
	$(BIN)/humo evaluate video output/demo.mp4 --image examples/woman.png

# two workers of one thread each: on models this small, torch's own threads slow each other down
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --durations 25

soak: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak

check: $(VENV)/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.retired_words

docs: $(VENV)/.ready
	$(BIN)/python -m tools.docs_reference docs/reference
	$(BIN)/zensical build --strict

format: $(VENV)/.ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
