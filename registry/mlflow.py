"""``python -m registry.mlflow import DIRECTORY --name NAME`` and ``... export REFERENCE DIRECTORY``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from compute.errors import ComputeError
from registry.client import get_model_registry


def main(arguments: Sequence[str] | None = None) -> int:
    """Import or export one model of the configured registry; prints the model's id, or the directory."""
    parser = argparse.ArgumentParser(prog="python -m registry.mlflow", description="Models from and to MLflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    taking = commands.add_parser("import", help="keep a model from an MLflow model directory")
    taking.add_argument("directory", help="with the file MLmodel in it")
    taking.add_argument("--name", help="of the model; by default its type")
    taking.add_argument("--model-type", help="by default the flavour, such as xgboost")
    taking.add_argument("--tag", action="append", default=[], dest="tags", help="may be repeated")
    giving = commands.add_parser("export", help="write a model as an MLflow model directory")
    giving.add_argument("reference", help="a model id, NAME, NAME@alias or NAME:version")
    giving.add_argument("directory", help="is made")
    options = parser.parse_args(arguments)
    try:
        registry = get_model_registry()
        if options.command == "import":
            print(registry.import_mlflow(options.directory, options.model_type, name=options.name, tags=options.tags))
        else:
            registry.export_mlflow(options.reference, options.directory)
            print(options.directory)
    except ComputeError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
