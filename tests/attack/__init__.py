"""Hostile bytes in thousands against a running service: seeds make them again, a corpus keeps what ever failed."""
