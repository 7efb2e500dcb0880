"""From feature rows to risks: the model's session and the batcher in front of it."""
