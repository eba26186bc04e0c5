"""What the entry points share: options, logging, one line for an error, the result as the last line of output."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from importlib import import_module
from typing import Any, NoReturn

from compute.errors import ComputeError

CHOICES = {"auto": None, "yes": True, "no": False}
"""What ``--distribute`` stands for."""

USER_ERROR = 2


def base_parser(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every command has."""
    options = argparse.ArgumentParser(
        prog=program, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quiet", action="store_true", help="log warnings only")
    return options


def comma_list(text: str) -> list[str]:
    """Split ``a,b,c``.

    Examples
    --------
    >>> comma_list("dep_time, arr_time")
    ['dep_time', 'arr_time']
    """
    return [item.strip() for item in text.split(",") if item.strip()]


def parameter(text: str) -> tuple[str, Any]:
    """Read ``key=value``; the value is JSON where it can be, else text.

    Examples
    --------
    >>> parameter("max_depth=8"), parameter("objective=reg:squarederror"), parameter("tree_method=hist")
    (('max_depth', 8), ('objective', 'reg:squarederror'), ('tree_method', 'hist'))
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def run(module: str) -> NoReturn:
    """Run a command's module: its ``parser()`` and its ``command(options)``.

    The module is imported under its own name, not ``__main__``, so that what it sends to workers can be found there.
    Exits with 0 and the result as one line of JSON; with 2 and one line on stderr for an error of the user's.
    """
    loaded = import_module(module)
    options = loaded.parser().parse_args()
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    try:
        from jobs import cluster

        cluster.attach()
        result = loaded.command(options)
    except ComputeError as error:
        sys.stdout.flush()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(USER_ERROR)
    print(json.dumps(result, default=str), flush=True)
    sys.exit(0)
