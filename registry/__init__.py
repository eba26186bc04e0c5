"""What is kept: the object store, the journal, models and durable tasks."""

from registry.entry import Event
from registry.journal import Journal, State
from registry.overlay import Overlay
from registry.store import FileStore, ObjectStore, open_store

__all__ = ["Event", "FileStore", "Journal", "ObjectStore", "Overlay", "State", "open_store"]
