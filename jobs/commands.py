"""What the entry points share: options, also from a file, logging, progress, exit codes, and how a result is shown.

yaml is imported when a file of options is named.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from compute.errors import CapabilityMissing, ComputeError, ConfigurationError
from jobs.columns import nearest

CHOICES = {"auto": None, "yes": True, "no": False}
"""What ``--distribute`` stands for."""

FAILED = 1
USER_ERROR = 2
STOPPED = 128 + signal.SIGTERM


class Stopped(BaseException):
    """The process was told to end (`ray job stop` sends SIGTERM): what is under way is given up in good order."""


def base_parser(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every command has."""
    options = argparse.ArgumentParser(
        prog=program, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--config", metavar="FILE.yaml", help="options from a file: `target: delay`; those here win")
    options.add_argument("--json", action="store_true", help="print the result as one line of JSON on a terminal too")
    options.add_argument("--quiet", action="store_true", help="log warnings only, and show no progress")
    return options


def arguments_of(path: str, options: argparse.ArgumentParser) -> list[str]:
    r"""Return what a YAML file of options would be on the command line.

    Parameters
    ----------
    path : str
        A mapping of the options' names to their values: lists and mappings for those that are repeated, true for flags.
    options : ArgumentParser
        Knows the options.

    Raises
    ------
    ConfigurationError
        When the file cannot be read, or names an option that there is not.

    Examples
    --------
    >>> import tempfile
    >>> options = base_parser("program", "", "")
    >>> _ = options.add_argument("--param", type=parameter, action="append")
    >>> with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
    ...     _ = file.write("quiet: true\nparam: {max_depth: 8}")
    ...     file.flush()
    ...     arguments_of(file.name, options)
    ['--quiet', '--param=max_depth=8']
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"cannot read the options in {path}: {error}", hint="Give a YAML file.") from error
    known = {name: action for action in options._actions for name in action.option_strings}
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} is no mapping of options", hint="Write `data: flights.parquet` and so on.")
    found: list[str] = []
    for key, value in values.items():
        name = f"--{str(key).replace('_', '-')}"
        if name not in known or name in ("--config", "--help"):
            names = [item.removeprefix("--") for item in known]
            raise ConfigurationError(
                f"{path} has the option {key!r}, and there is none{nearest(str(key), names)}",
                hint="`--help` lists the options; a file has them without the dashes.",
                context={"option": str(key)},
            )
        found += _given(name, value, known[name])
    return found


def _given(name: str, value: Any, action: argparse.Action) -> list[str]:
    if value is None or value is False:
        return []
    if action.nargs == 0:
        return [name]
    if isinstance(value, dict) and action.type is parameter:
        return [f"{name}={key}={json.dumps(item)}" for key, item in value.items()]
    if isinstance(value, list) and action.type is comma_list:
        return [f"{name}={','.join(map(str, value))}"]
    if isinstance(value, list):
        return [f"{name}={item}" for item in value]
    return [f"{name}={json.dumps(value) if isinstance(value, dict) else value}"]


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
    Exits with 0 and the result, as one line of JSON or, on a terminal, indented; with one line on stderr and 2 when
    what was asked for is wrong, 1 when something failed, 143 when the process was told to end. Progress goes to
    stderr: see `jobs.progress.shown`.
    """
    loaded = import_module(module)
    options = _options(loaded.parser(), sys.argv[1:])
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    signal.signal(signal.SIGTERM, _stop)
    try:
        from jobs import cluster
        from jobs.progress import shown

        with nullcontext() if options.quiet else shown():
            cluster.attach()
            result = loaded.command(options)
    except ComputeError as error:
        _exit_with(error)
    except (Stopped, KeyboardInterrupt) as error:
        print("error: stopped before the end", file=sys.stderr)
        sys.exit(STOPPED if isinstance(error, Stopped) else 130)
    if sys.stdout.isatty() and not options.json:
        print(json.dumps(result, default=str, indent=2, ensure_ascii=False), flush=True)
    else:
        print(json.dumps(result, default=str), flush=True)
    sys.exit(0)


def _options(options: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Read the command line, after what the file says that it names: what comes later wins."""
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument("--config")
    path = named.parse_known_args(arguments)[0].config
    try:
        given = arguments_of(path, options) if path else []
    except ComputeError as error:
        _exit_with(error)
    return options.parse_args([*given, *arguments])


def _exit_with(error: ComputeError) -> NoReturn:
    sys.stdout.flush()
    print(f"error: {' '.join(error.message.split())}", file=sys.stderr)
    sys.exit(USER_ERROR if error.status < 500 or isinstance(error, ConfigurationError | CapabilityMissing) else FAILED)


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise Stopped
