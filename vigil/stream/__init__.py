"""Streams of events into and out of Vigil."""
