"""What is kept: the object store, the journal, models and durable tasks."""
