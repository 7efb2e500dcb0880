"""HTTP: a lane of plain ASGI ahead of BentoML's middleware."""
