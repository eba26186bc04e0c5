"""One row a request over HTTP: requests a second and latency, next to servers that people use for it."""

from benchmarks.inference.run import run

__all__ = ["run"]
