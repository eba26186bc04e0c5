"""Descriptions of Ray clusters from the configuration: `python -m jobs.cluster_config`.

For Ray's cluster launcher (`ray up`), or as manifests for KubeRay (`kubectl apply -f`). Keys and tokens are never
written: a description says where they come from.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from compute import load_config
from compute.config import parse_bytes
from compute.errors import ComputeError, ConfigurationError, InvalidField
from jobs import cluster_launcher, kuberay
from jobs.cluster_wanted import Wanted, own_image
from jobs.commands import USER_ERROR

FORMATS = ("ray", "raycluster", "rayservice", "rayjob")

# Kubernetes takes 63 characters, and the operator appends some to a RayService's or RayJob's.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")


def describe(kind: str, wanted: Wanted) -> str:
    """Return a description as YAML.

    Parameters
    ----------
    kind : {"ray", "raycluster", "rayservice", "rayjob"}
        For Ray's cluster launcher, or one of KubeRay's resources.
    wanted : Wanted
        What it should be.

    Raises
    ------
    InvalidField, ConfigurationError
        Naming what cannot be described.

    Examples
    --------
    >>> text = describe("raycluster", Wanted(load_config(), "rayproject/ray", name="tables"))
    >>> [part["kind"] for part in yaml.safe_load_all(text)]
    ['ConfigMap', 'PersistentVolumeClaim', 'RayCluster']
    """
    if not _NAME.fullmatch(wanted.name):
        raise InvalidField(
            f"the name {wanted.name!r} cannot be that of a cluster",
            hint="Give up to 47 of the characters a-z 0-9 -, the first a letter, the last no hyphen.",
        )
    if kind == "rayjob" and not wanted.entrypoint:
        raise InvalidField("a RayJob runs a command, and none was given", hint="Give --entrypoint 'python -m ...'.")
    if kind == "rayservice" and not wanted.serve:
        raise ConfigurationError("a RayService serves, and there is no Serve configuration", hint="See --serve-config.")
    notes = cluster_launcher.NOTES if kind == "ray" else kuberay.NOTES
    parts = [cluster_launcher.launcher(wanted)] if kind == "ray" else kuberay.manifests(kind, wanted)
    comment = "".join(f"# {line}\n" for line in notes)
    return comment + yaml.dump_all(parts, Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as it is."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m jobs.cluster_config",
        description="Write a description of a Ray cluster from the configuration.",
        epilog="The number of workers is that of the section `scaling`; without it there is one.",
    )
    options.add_argument("--format", required=True, choices=FORMATS, help="of Ray's launcher, or a KubeRay resource")
    options.add_argument("--output", type=Path, metavar="FILE", help="where to write (default: standard output)")
    options.add_argument("--name", default="tablework", help="of the cluster (default: tablework)")
    options.add_argument("--image", help="container image with Ray and this project (default: Ray's own, of the "
                         "installed version)")  # fmt: skip
    options.add_argument("--cpus", type=int, default=4, help="of each node (default: 4)")
    options.add_argument("--memory", type=_size, default="16g", help="of each node (default: 16g)")
    options.add_argument("--gpus", type=int, default=0, help="of each node (default: 0)")
    options.add_argument("--hosts", metavar="HEAD,WORKER,...", help="ray: machines that are there (default: AWS's)")
    options.add_argument("--instance-type", default="m5.2xlarge", help="ray: of AWS (default: m5.2xlarge)")
    options.add_argument("--serve-config", type=Path, default=Path("serve_config.yaml"), metavar="FILE",
                         help="rayservice: what to serve (default: serve_config.yaml)")  # fmt: skip
    options.add_argument("--entrypoint", default="", metavar="COMMAND", help="rayjob: what to run")
    return options


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None


def command(options: argparse.Namespace) -> str:
    """Return what the options ask for."""
    if options.cpus < 1 or options.gpus < 0:
        raise InvalidField("a node has at least one CPU, and no fewer than 0 GPUs", hint="See --cpus and --gpus.")
    serve = ""
    if options.format == "rayservice":
        if not options.serve_config.is_file():
            raise ConfigurationError(f"there is no file {options.serve_config}", hint="Name one with --serve-config.")
        serve = options.serve_config.read_text(encoding="utf-8")
    wanted = Wanted(
        config=load_config(),
        name=options.name,
        image=options.image or own_image(),
        cpus=options.cpus,
        memory=options.memory,
        gpus=options.gpus,
        hosts=tuple(host.strip() for host in (options.hosts or "").split(",") if host.strip()),
        instance_type=options.instance_type,
        serve=serve,
        entrypoint=options.entrypoint,
    )
    return describe(options.format, wanted)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        text = command(options)
    except ComputeError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
