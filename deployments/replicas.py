"""How many replicas an application has, and what each takes.

ray is imported inside a function: reading an application's module must not cost what Serve costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from ray.serve import Application

    from compute.config import Scaling


class ReplicaArgs(BaseModel):
    """What ``serve_config.yaml`` says for each application under ``args``."""

    model_config = ConfigDict(extra="forbid")

    config_path: str | None = Field(None, description="The configuration file; by default as everywhere.")
    replicas: int = Field(1, ge=1, description="How many, unless the configuration's `scaling` decides.")
    cpus: float = Field(0.1, ge=0, description="CPUs each replica takes from the cluster.")
    max_ongoing_requests: int = Field(64, ge=1, description="Requests that one replica works on at once.")
    max_queued_requests: int = Field(1024, ge=-1, description="Requests that wait at each proxy; beyond, 503. -1: any.")


def deployment_options(args: ReplicaArgs, scaling: Scaling | None, policy: str | None = None) -> dict[str, Any]:
    """Return the options of a Serve deployment.

    Parameters
    ----------
    args : ReplicaArgs
        From ``serve_config.yaml``; options of the deployment itself in that file win over everything here.
    scaling : Scaling or None
        The configuration's section; when it is there, Serve adds and removes replicas by it. With ``min_workers: 0``
        an application that is idle has none, and the next request waits for one.
    policy : str, optional
        Serve's autoscaling policy, ``module:function``; by default it goes by the requests that Serve sees.

    Examples
    --------
    >>> from compute.config import Scaling
    >>> options = deployment_options(ReplicaArgs(), Scaling(min_workers=2, max_workers=20, target_utilization=0.75))
    >>> options["autoscaling_config"]["min_replicas"], options["autoscaling_config"]["target_ongoing_requests"]
    (2, 48.0)
    >>> deployment_options(ReplicaArgs(replicas=3), None)["num_replicas"]
    3
    """
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": args.cpus},
        "max_ongoing_requests": args.max_ongoing_requests,
        "max_queued_requests": args.max_queued_requests,
    }
    if scaling is None:
        return {**options, "num_replicas": args.replicas}
    return {
        **options,
        "autoscaling_config": {
            **({} if policy is None else {"policy": {"policy_function": policy}}),
            "min_replicas": scaling.min_workers,
            "max_replicas": scaling.max_workers,
            "target_ongoing_requests": scaling.target_utilization * args.max_ongoing_requests,
            "upscale_delay_s": scaling.scale_up_delay,
            "downscale_delay_s": scaling.scale_down_delay,
        },
    }


def serve_application(
    replica: type, args: ReplicaArgs, scaling: Scaling | None, policy: str | None = None
) -> Application:
    """Return the Serve application whose replicas are made by ``replica(args)`` and bring their own ASGI application.

    Parameters
    ----------
    replica : type
        Has ``__serve_build_asgi_app__``; its name becomes that of the deployment, its methods can be called by handles.
    args : ReplicaArgs
        As ``serve_config.yaml`` has them.
    scaling : Scaling or None
        The configuration's section.
    policy : str, optional
        As for `deployment_options`.
    """
    from ray import serve

    # The door writes a line for each request, with the token's name; Serve's own would double the cost of that.
    logs = {"enable_access_log": False}
    options = deployment_options(args, scaling, policy)
    deployment = serve.deployment(name=replica.__name__, logging_config=logs, **options)
    return deployment(serve.ingress()(replica)).bind(args)
