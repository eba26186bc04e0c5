"""What a replica writes to its log."""

from __future__ import annotations

import logging
import sys

NAME = "deployments.stderr"
PREFIX = "ts=%(asctime)s level=%(levelname)s logger=%(name)s "
"""How each line begins."""


def log_to_stderr() -> None:
    """Have this process write our log, one line an event, to standard error; Ray keeps that in a file for each process.

    For processes that are ours alone, such as replicas; calling it again changes nothing.
    """
    for room in ("compute", "registry", "jobs", "solver", "deployments", "dask_bridge"):
        logger = logging.getLogger(room)
        if any(handler.get_name() == NAME for handler in logger.handlers):
            continue
        # Not `sys.stderr`: Serve puts something there that looks for the caller of each line, at 50 microseconds.
        handler = logging.StreamHandler(sys.__stderr__)
        handler.set_name(NAME)
        handler.setFormatter(logging.Formatter(f"{PREFIX}%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
