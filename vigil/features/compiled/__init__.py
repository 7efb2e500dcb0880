"""The compiled kernel: what turns events into features, whoever keeps their state."""
