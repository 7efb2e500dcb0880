"""History in, a calibrated Keras risk model and a report out: `python -m training`."""
