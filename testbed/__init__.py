"""Real parts for tests, benches and `make kafka`: a served process, Valkey, Kafka, models."""

import vigil  # noqa: F401 - ahead of ONNX Runtime, which it tells to report nothing
