"""Keras to ONNX."""

from __future__ import annotations

from typing import Any

import onnx

INPUT, OUTPUT, ROWS = "features", "risk", "rows"
OPSET = 17


def to_onnx(model: Any, features: int) -> onnx.ModelProto:
    """The Keras `model` as an ONNX graph: "features" float32 [rows, F] -> "risk" float32 [rows, 1].

    Raises:
        ValueError: where an operation of the model has no ONNX counterpart, naming it.
    """
    import tensorflow as tf
    import tf2onnx

    # from_keras fails on models of Keras 3; a function with a signature of its own works.
    signature = [tf.TensorSpec((None, features), tf.float32, name=INPUT)]
    function = tf.function(lambda features: model(features, training=False), input_signature=signature)
    converted, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    known = set(onnx.defs.get_all_schemas_with_history())
    unknown = {node.op_type for node in converted.graph.node} - {schema.name for schema in known}
    if unknown:
        raise ValueError(f"the model uses operations that ONNX has not: {', '.join(sorted(unknown))}")
    return _named(converted)


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with the agreed names of its output and of its first dimension."""
    graph = model.graph
    old = graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = OUTPUT
    graph.output[0].name = OUTPUT
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = ROWS
    del graph.value_info[:]
    onnx.checker.check_model(model)
    return model
