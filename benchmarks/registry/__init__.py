"""The registry beside MLflow on SQLite, plain requests to S3 and an empty actor; and how it grows with its models."""

from benchmarks.registry.run import run

__all__ = ["run"]
