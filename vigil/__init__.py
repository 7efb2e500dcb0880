"""Vigil: events in, features on the fly, a calibrated risk and a decision out."""

__version__ = "0.1.0"
