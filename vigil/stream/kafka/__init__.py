"""Streams from Kafka to Kafka, each event exactly once."""
