"""The process that serves: what holds engines and servers together, and what keeps workers alive."""
