"""Feature state in memory: one process, with a journal and a snapshot on disk."""
