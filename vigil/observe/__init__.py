"""What a process tells of itself: metrics, traces, the access log and the log."""
