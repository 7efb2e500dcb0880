"""Vigil: events in, features on the fly, a calibrated risk and a decision out."""

import os

__version__ = "0.1.0"

# ONNX Runtime writes an id of the machine to disk and has an address to report to, unless it is told before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
