# `make demo` and `make test` need Python 3.11 or newer, git and make; all else is installed into .venv.
PYTHON ?= python3
VENV := .venv
# a process a core and one more, since some tests wait, each with one thread; a file stays in one process, slow ones first
PYTEST = OMP_NUM_THREADS=1 pytest -n $$(python -c 'import os; print(os.cpu_count() + 1)') --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: install install-test demo test test-fast clean

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"error: Python 3.11 or newer is needed, this is " + sys.version)'
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
	$(PYTEST)

test-fast: install-test
	$(PYTEST) -m "not slow"

clean:
	rm -rf $(VENV) .sidflow
