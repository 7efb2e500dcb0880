"""The Keras model: raw features in, calibrated risk out, the preprocessing inside the graph.

Built of Keras's own layers and operations only, so that `keras.models.load_model` needs nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from training.encoding import Encoding

WIDTH, DEPTH, DROPOUT = 64, 2, 0.1
LEARNING_RATE, WEIGHT_DECAY, BATCH = 2e-3, 4e-3, 512
EPOCHS, PATIENCE = 8, 2
_STEPS_A_CALL = 32
_PREDICT_ROWS = 16_384


@dataclass
class Fitted:
    """A trained head: encoded features in, logit out.

    Args:
        head: the Keras model.
        epochs: of each epoch its `loss` and, with a validation part, its `val_loss`.
    """

    head: Any
    epochs: list[dict[str, float]] = field(default_factory=list)


def fit(
    encoded: np.ndarray,
    y: np.ndarray,
    valid: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
    epochs: int = EPOCHS,
    progress: Callable[[int], None] | None = None,
) -> Fitted:
    """Trains two layers of 64 SiLU on plain cross-entropy, the output's bias starting at the base rate.

    Imbalance needs no weights: the bias starts right and the loss stays a proper one, so that risks
    are probabilities.

    Args:
        encoded: float32 [n, m].
        y: uint8 [n].
        valid: encoded rows and labels that decide when to stop early; None: all epochs are trained.
        seed: decides initial weights, order and dropout.
        epochs: the most there are; the learning rate decays over them by a cosine.
        progress: called with the number of epochs done.
    """
    keras.utils.set_random_seed(seed)
    head = _head(encoded.shape[1], float(y.mean()))
    steps = epochs * -(-len(encoded) // BATCH)
    head.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps), weight_decay=WEIGHT_DECAY),
        keras.losses.BinaryCrossentropy(from_logits=True),
        steps_per_execution=min(_STEPS_A_CALL, steps // epochs),
    )
    fitted = Fitted(head)
    tell = progress or (lambda done: None)

    def on_epoch_end(epoch: int, logs: dict[str, float]) -> None:
        fitted.epochs.append({name: float(value) for name, value in logs.items()})
        tell(epoch + 1)

    watchers: list[Any] = [keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)]
    if valid is not None:
        watchers.append(keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE, restore_best_weights=True))
        valid = (valid[0], valid[1].astype(np.float32)[:, None])
    head.fit(
        encoded,
        y.astype(np.float32)[:, None],
        batch_size=BATCH,
        epochs=epochs,
        validation_data=valid,
        validation_batch_size=_PREDICT_ROWS,
        callbacks=watchers,
        verbose=0,
    )
    return fitted


def logits(head: Any, encoded: np.ndarray) -> np.ndarray:
    """float32 [n]: the head's logits of encoded rows."""
    parts = [
        np.asarray(head(encoded[i : i + _PREDICT_ROWS], training=False))[:, 0]
        for i in range(0, len(encoded), _PREDICT_ROWS)
    ]
    return np.concatenate(parts)


def risks(model: Any, x: np.ndarray) -> np.ndarray:
    """float32 [n]: the whole model's risks of raw feature rows."""
    return logits(model, x)


def assemble(encoding: Encoding, head: Any, slope: float, intercept: float, features: int) -> Any:
    """The whole model: "features" float32 [n, F] -> "risk" float32 [n, 1] = sigmoid(slope * logit + intercept).

    The calibration is folded into the head's last layer, which changes in place.
    """
    last = head.layers[-1]
    kernel, bias = last.get_weights()
    last.set_weights([kernel * slope, bias * slope + intercept])
    raw = keras.Input((features,), dtype="float32", name="features")
    taken = ops.take(raw, encoding.columns.astype(np.int32), axis=1)
    hidden = ops.clip((taken - encoding.low) * encoding.scale, 0.0, 1.0)
    for layer in head.layers[1:]:
        hidden = layer(hidden)
    return keras.Model(raw, layers.Activation("sigmoid", name="risk")(hidden), name="risk_model")


def _head(inputs: int, rate: float) -> Any:
    encoded = keras.Input((inputs,), dtype="float32", name="encoded")
    hidden = encoded
    for i in range(DEPTH):
        hidden = layers.Dense(WIDTH, activation="silu", name=f"hidden_{i + 1}")(hidden)
        hidden = layers.Dropout(DROPOUT, name=f"dropout_{i + 1}")(hidden)
    start = keras.initializers.Constant(float(np.log(rate / (1 - rate))))
    return keras.Model(encoded, layers.Dense(1, bias_initializer=start, name="logit")(hidden))
