"""The HTTP interface of the model registry, put together: records, files, events, webhooks, and predictions."""

from compute import Config
from deployments.access import Rules
from deployments.application import Application
from deployments.artifacts_api import RULES as ARTIFACT_RULES
from deployments.artifacts_api import UPLOADS, artifacts_api
from deployments.downloads import Downloads
from deployments.events import RULES as EVENT_RULES
from deployments.events import events_api
from deployments.parts import PartUploads
from deployments.parts_api import RULES as PART_RULES
from deployments.parts_api import parts_api
from deployments.predict_api import RULES as PREDICT_RULES
from deployments.predict_api import fast_predict, predict_api
from deployments.records_api import RULES as RECORD_RULES
from deployments.records_api import records_api
from deployments.scoring import Scorer
from deployments.spool import sweep
from deployments.threads import Threads
from deployments.traffic_api import RULES as TRAFFIC_RULES
from deployments.traffic_api import traffic_api
from deployments.webhooks_api import RULES as WEBHOOK_RULES
from deployments.webhooks_api import webhooks_api
from registry import ModelRegistry, get_webhooks, open_store

RULES: Rules = {
    **RECORD_RULES,
    **ARTIFACT_RULES,
    **PART_RULES,
    **EVENT_RULES,
    **WEBHOOK_RULES,
    **TRAFFIC_RULES,
    **PREDICT_RULES,
}


def models_api(registry: ModelRegistry, scorer: Scorer, config: Config, max_streams: int) -> Application:
    """Return the application that serves the registry and its models.

    Parameters
    ----------
    registry : ModelRegistry
        Its calls block, so they are made in threads.
    scorer : Scorer
        Answers predictions.
    config : Config
        For the door (`Application`), the artifacts and the webhooks.
    max_streams : int
        Clients that may follow the events at once.
    """
    app = Application(
        title="Models",
        description="Register, find, change and delete models, follow what happens to them, and predict with any.",
        rules=RULES,
        config=config,
        uploads=UPLOADS,
        fast=[fast_predict(scorer)],
    )
    sweep()
    # Those with fixed paths first: a route is taken by the first that matches, and `/{model_id}` matches any word.
    events_api(app, registry, max_streams)
    webhooks_api(app, get_webhooks(config), Threads(4, "webhooks"))
    store = open_store(config.storage.uri, config)
    parts_api(app, registry, PartUploads(store, config.security.max_upload), config.security.max_body)
    traffic_api(app, registry, Threads(4, "traffic-api"))
    records_api(app, registry, scorer, Threads(16, "registry"))
    artifacts_api(app, registry, Downloads(store))

    predict_api(app, scorer)
    return app
