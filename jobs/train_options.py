"""The options of `python -m jobs.train`, and those it shares with `python -m jobs.tune`."""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

from jobs.commands import CHOICES, base_parser, comma_list, parameter

_EXAMPLE = """example:
  python -m jobs.train --data data/flights.parquet --target arr_delay --exclude dep_time,arr_time,air_time \\
      --drop-null-target --model-type xgboost --param max_depth=8 --param n_estimators=100 --name arrival-delay

  ... --time-col time_hour --early-stopping 20 --param n_estimators=2000   # the latest fifth is held back
  ... --cross-validation 5 --group-col patient --class-weight balanced     # no patient on both sides
  ... --checkpoint-every 100    # interrupted? The same command goes on
  ... --continue-from arrival-delay --param n_estimators=50                # add rounds to a registered model
"""


def json_or_text(text: str) -> Any:
    """Read an option that is a JSON object or a word.

    Examples
    --------
    >>> json_or_text("balanced"), json_or_text('{"late": 5}')
    ('balanced', {'late': 5})
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r:.100} is not JSON: {error}") from None


def signed(text: str) -> tuple[str, int]:
    """Read ``feature=1`` or ``feature=-1``.

    Examples
    --------
    >>> signed("distance=1")
    ('distance', 1)
    """
    name, sign = parameter(text)
    if sign not in (-1, 0, 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not FEATURE=1 or FEATURE=-1")
    return name, sign


def workers(text: str) -> int | tuple[int, int]:
    """Read a number of processes, or the least and the most of them.

    Examples
    --------
    >>> workers("2"), workers("2-4")
    (2, (2, 4))
    """
    least, dash, most = text.partition("-")
    try:
        return (int(least), int(most)) if dash else int(least)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, or two as in 2-4") from None


class Shared(NamedTuple):
    """The options that training and tuning share, and two groups of them to which more can be added."""

    options: argparse.ArgumentParser
    measured: argparse._ArgumentGroup
    fitted: argparse._ArgumentGroup


def training_parser(program: str, description: str, example: str) -> Shared:
    """Return the options that training and tuning share."""
    options = base_parser(program, description, example)
    options.add_argument("--data", required=True, metavar="URI", help="CSV or Parquet, a file or a directory, or s3://")
    options.add_argument("--target", required=True, metavar="COLUMN", help="the column to predict")
    options.add_argument("--features", type=comma_list, metavar="A,B,C", help="columns to predict from (default: all)")
    options.add_argument("--exclude", type=comma_list, metavar="A,B,C", help="columns not to predict from")
    options.add_argument(
        "--model-type",
        default="xgboost",
        metavar="TYPE",
        help="xgboost, lightgbm, random_forest, gradient_boosting, linear, logistic",
    )
    options.add_argument(
        "--param", type=parameter, action="append", default=[], metavar="KEY=VALUE", help="of the library; repeatable"
    )
    options.add_argument("--task", help="regression, classification, binary, multiclass (default: from the target)")
    options.add_argument("--name", help="the model's name in the registry (default: the model type)")
    options.add_argument("--tag", action="append", default=[], help="for finding the model again; repeatable")
    options.add_argument("--description", help="kept with the model")
    options.add_argument("--validation-fraction", type=float, default=0.2, metavar="SHARE", help="default: 0.2")
    options.add_argument("--drop-null-target", action="store_true", help="leave out rows without a target")
    options.add_argument("--seed", type=int, default=0, help="of the split and of the model (default: 0)")
    measured = options.add_argument_group("how it is measured")
    measured.add_argument(
        "--validation", metavar="KIND", help="random, stratified, group or time (default: stratified for classes)"
    )
    measured.add_argument("--group-col", metavar="COLUMN", help="hold back whole groups: none is on both sides")
    measured.add_argument("--time-col", metavar="COLUMN", help="hold back the latest rows")
    fitted = options.add_argument_group("how it is fitted")
    fitted.add_argument("--weight-col", metavar="COLUMN", help="how much each row counts")
    fitted.add_argument(
        "--class-weight", type=json_or_text, metavar="balanced|JSON", help="""balanced, or '{"late": 5}'"""
    )
    fitted.add_argument(
        "--monotone", type=signed, action="append", default=[], metavar="FEATURE=1|-1",
        help="the prediction may only rise, or fall, with it; repeatable",
    )  # fmt: skip
    return Shared(options, measured, fitted)


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options, measured, fit = training_parser(
        "python -m jobs.train", "Train a model on a table, measure it and register it.", _EXAMPLE
    )
    measured.add_argument(
        "--cross-validation", type=int, metavar="FOLDS", help="measure by folds, and train the model on all rows"
    )
    fit.add_argument(
        "--early-stopping", type=int, metavar="ROUNDS", help="stop when so many rounds brought nothing (boosters)"
    )
    fit.add_argument(
        "--checkpoint-every", type=int, metavar="ROUNDS", help="keep what is reached; the same command goes on from it"
    )
    fit.add_argument("--continue-from", metavar="REF", help="add rounds to a registered model")
    options.add_argument(
        "--distribute", choices=tuple(CHOICES), default="auto", help="train over the cluster (default: auto)"
    )
    options.add_argument(
        "--num-workers", type=workers, metavar="N|LEAST-MOST",
        help="training processes of a distributed run; with a range it goes on when a node is lost",
    )  # fmt: skip
    options.add_argument("--engine", metavar="ENGINE", help="xgboost_ray or lightgbm_ray, of the extra `legacy`")
    return options
