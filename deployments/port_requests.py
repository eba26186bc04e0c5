"""Autoscaling that counts the requests at ports of the replicas' own, which Serve does not see by itself."""

from __future__ import annotations

from typing import Any

ONGOING = "port_requests"
"""Under which a replica reports them, in ``record_autoscaling_stats``."""


def all_requests(context: Any) -> tuple[float, dict[str, Any]]:
    """Return how many replicas all requests need: an autoscaling policy of Serve's, which applies bounds and delays.

    Parameters
    ----------
    context : ray.serve.config.AutoscalingContext
        What Serve knows, and what replicas reported.

    Returns
    -------
    tuple of float and dict
        The replicas, and no state.
    """
    at_ports = sum((context.aggregated_metrics or {}).get(ONGOING, {}).values())
    return (context.total_num_requests + at_ports) / context.config.get_target_ongoing_requests(), {}
