"""From a trained Keras model to the fastest ONNX file that still gives its risks: `python -m optimize`."""

import vigil  # noqa: F401 - ahead of ONNX Runtime, which it tells to report nothing
