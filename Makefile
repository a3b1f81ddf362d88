# `make demo` and `make test` need Python 3.11 or newer, git and make; all else is installed into .venv.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: install install-test demo test test-fast clean

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: install
	dvc repro
	sidflow show

test: install-test
	pytest

test-fast: install-test
	pytest -m "not slow"

clean:
	rm -rf $(VENV) .sidflow
