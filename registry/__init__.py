"""What is kept: the object store, the journal, models and durable tasks."""

from registry.artifacts import ArtifactStore
from registry.async_client import AsyncModelRegistry, get_async_model_registry
from registry.changes import KINDS as CHANGE_KINDS
from registry.changes import Change, ChangePage
from registry.client import ModelRegistry, get_model_registry
from registry.collection import CollectionReport
from registry.custom_formats import CustomFormat
from registry.encoding import encode, encode_columns, read_texts
from registry.entry import Event
from registry.file_store import FileStore
from registry.journal import Journal
from registry.loaded import LoadedModel
from registry.onnx_model import OnnxModel
from registry.overlay import Overlay
from registry.records import Artifact, DeletedModel, ModelRecord
from registry.recovery import State
from registry.search import SearchPage
from registry.signature import Column, Signature, capture_signature
from registry.storage import open_store
from registry.store import ObjectStore, StoredObject
from registry.task_client import TaskRegistry, get_task_registry
from registry.task_record import TaskRecord
from registry.task_work import TaskContext
from registry.traffic import SHADOW, Traffic, TrafficPlan, latency_bucket, pick_arm
from registry.webhook_client import WebhookRegistry, get_webhooks
from registry.webhooks import Webhook

__all__ = [
    "CHANGE_KINDS",
    "SHADOW",
    "Artifact",
    "ArtifactStore",
    "AsyncModelRegistry",
    "Change",
    "ChangePage",
    "CollectionReport",
    "Column",
    "CustomFormat",
    "DeletedModel",
    "Event",
    "FileStore",
    "Journal",
    "LoadedModel",
    "ModelRecord",
    "ModelRegistry",
    "ObjectStore",
    "OnnxModel",
    "Overlay",
    "SearchPage",
    "Signature",
    "State",
    "StoredObject",
    "TaskContext",
    "TaskRecord",
    "TaskRegistry",
    "Traffic",
    "TrafficPlan",
    "Webhook",
    "WebhookRegistry",
    "capture_signature",
    "encode",
    "encode_columns",
    "get_async_model_registry",
    "get_model_registry",
    "get_task_registry",
    "get_webhooks",
    "latency_bucket",
    "open_store",
    "pick_arm",
    "read_texts",
]
