"""From a trained Keras model to the fastest ONNX file that still gives its risks: `python -m optimize`."""
