"""Pipeline stages, one module each. This check is here because it must run before any other import can fail."""

import importlib.util
import sys

if importlib.util.find_spec("typer") is None or importlib.util.find_spec("pyarrow") is None:
    sys.exit(f"error: {sys.executable} lacks sidflow's packages; run `source .venv/bin/activate` (or `make install`) "
             "first")
