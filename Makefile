# `make demo` and `make test` each do all they need from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What is imported is compiled once and kept, whatever the environment says; the rest never is.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

.PHONY: demo test lint docs clean

demo: $(STAMP)
	$(BIN)/mdlbench eval --suite mnist
	@echo "Open results/mnist/curves.png and results/mnist/table.md"

test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs
	@echo "Open build/docs/index.html"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV); this takes a few minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) "torch==2.13.0"
	$(INSTALL) --editable ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) results
