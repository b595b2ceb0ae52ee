# make setup   .venv from requirements.lock, where it is missing or out of date
# make test    the whole test suite: make test PYTEST_ARGS="-k text"
# make check   ruff and types

PYTHON := .venv/bin/python

.PHONY: setup test check

setup:
	@./run_local.sh --setup-only

test: setup
	$(PYTHON) -m pytest $(PYTEST_ARGS)

check: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
