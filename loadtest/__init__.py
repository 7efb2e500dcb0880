"""Load on a running service, and peers to compare with."""

import vigil  # noqa: F401 - ahead of ONNX Runtime, which it tells to report nothing
