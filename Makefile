# make demo   a talking video from the example's words, picture and sound, by the embedded model
# make test   every test, in its own virtual environment      make check   style, types, layers, language
# make soak   whether the service stays up: kills, a lost machine, half an hour of jobs
# make docs   the documentation as a site, in site/; its pages of reference are made from the code
# make format what `make check` asks for, where a machine can do it
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# compiled on all cores at once, which pip does on one, and without the tests that packages carry
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
	$(BIN)/humo generate --config examples/demo.toml --output output/demo.mp4
	$(BIN)/humo evaluate video output/demo.mp4 --image examples/woman.png

# two workers of one thread each: torch's own threads only get in each other's way on models this small
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --durations 10

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
