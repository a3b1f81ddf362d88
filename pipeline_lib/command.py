"""How a stage or command starts, reads lists, and fails: one line for a user, a traceback only with SIDFLOW_DEBUG=1.

To be imported before torch, whose threads read how long to wait for each other once they are loaded.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable

import typer

USER_ERRORS = (ValueError, OSError, RuntimeError, ImportError)

if "OMP_WAIT_POLICY" not in os.environ:  # give way soon, as OpenMP itself does where its threads outnumber the cores
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def run_stage(main: Callable[..., None]) -> None:
    """Run a typer function as a program. Exit status 1, and one line, for an error that a user can mend."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    run_app(app)


def run_app(app: typer.Typer) -> None:
    """The same for a typer app of several commands."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("httpx", "faiss", "sentence_transformers", "matplotlib.category"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app()
    except USER_ERRORS as error:
        if os.environ.get("SIDFLOW_DEBUG") == "1":
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


def listed(values: Iterable[str]) -> list[str]:
    """Names of an option that may be given several times, each time with several names separated by commas."""
    return [name.strip() for value in values for name in value.split(",")]
