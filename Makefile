# make setup       .venv from requirements.lock, where it is missing or out of date
# make test        the whole test suite: make test PYTEST_ARGS="-k text"
# make test-harm   kills, full disks, hostile rows, flipped bits, fifty nights: all of the tests that do harm, with their figures
# make check       ruff and types

PYTHON := .venv/bin/python

.PHONY: setup test test-harm check

setup:
	@./run_local.sh --setup-only

test: setup
	$(PYTHON) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-harm: setup
	$(PYTHON) -m pytest -m "harm or not harm" -s $(PYTEST_ARGS) tests/test_harm_*.py

check: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
