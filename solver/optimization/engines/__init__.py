"""The engines, one module each, by the name under which a person asks for them. None is imported here."""

from __future__ import annotations

ENGINES = ("highs", "scip", "cp-sat", "clarabel", "slsqp", "trust-constr", "cobyqa", "differential-evolution")
MODULES = {name: f"solver.optimization.engines.{name.replace('-', '_')}" for name in ENGINES}
