"""Magnitude pruning: the smallest weights go, step by step, while the rest learns to make up for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from optimize.runs import Rows

BATCH, EPOCHS, LEARNING_RATE = 1024, 3, 1e-3
MOST_ROWS = 60_000
_RAMP = 0.6
_STEPS_A_CALL = 8


class Masked(keras.constraints.Constraint):  # type: ignore[misc]
    """Keeps the pruned weights of a kernel at zero after every step of the optimizer.

    Args:
        kernel: the variable, any shape.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._mask = keras.Variable(np.ones(kernel.shape, np.float32), trainable=False)

    def __call__(self, values: Any) -> Any:
        return values * self._mask

    def prune(self, share: float) -> None:
        """Takes out the `share` of weights that are smallest by magnitude; what is out stays out."""
        sizes = np.abs(ops.convert_to_numpy(self._kernel))
        mask = np.ones(sizes.size, np.float32)
        mask[np.argsort(sizes, axis=None, kind="stable")[: round(share * sizes.size)]] = 0.0
        self._mask.assign(mask.reshape(sizes.shape))
        self._kernel.assign(self._kernel * self._mask)


class Gradually(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises the pruned share from 0 to `sparsity` over the first part of the fine-tuning.

    By the cubic schedule of M. Zhu and S. Gupta, "To prune, or not to prune" (2017).

    Args:
        masks: one for each kernel.
        sparsity: the final share, in [0, 1).
        steps: of the whole fine-tuning.
        progress: called with the steps that are done.
    """

    def __init__(self, masks: list[Masked], sparsity: float, steps: int, progress: Callable[[int], None]) -> None:
        super().__init__()
        self._masks, self._sparsity, self._ramp = masks, sparsity, max(int(steps * _RAMP), 1)
        self._progress = progress
        self._done = 0
        self._pruned = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done += _STEPS_A_CALL
        self._progress(self._done)
        if not self._pruned:
            left = 1.0 - min(self._done / self._ramp, 1.0)
            self._prune(self._sparsity * (1.0 - left**3))
            self._pruned = left == 0.0

    def on_train_end(self, logs: Any = None) -> None:
        if not self._pruned:
            self._prune(self._sparsity)

    def _prune(self, share: float) -> None:
        for mask in self._masks:
            mask.prune(share)


def steps(rows: int) -> int:
    """How many steps the fine-tuning on so many rows takes."""
    return EPOCHS * max(min(rows, MOST_ROWS) // BATCH, 1)


def pruned(model: Any, x: Rows, sparsity: float, seed: int, progress: Callable[[int], None]) -> Any:
    """`model`, changed in place, with `sparsity` of the weights of every Dense layer but the last at zero.

    The fine-tuning's targets are the model's own risks, which keeps them calibrated.

    Args:
        model: a Keras model, float32 [n, F] -> [n, 1] in [0, 1].
        x: float32 [n, F], rows it was trained on.
        sparsity: share of weights to take out, in [0, 1).
        seed: decides the rows, their order and dropout.
        progress: called with the number of steps done, of `steps(len(x))`.
    """
    keras.utils.set_random_seed(seed)
    if len(x) > MOST_ROWS:
        x = x[np.random.default_rng(seed).choice(len(x), MOST_ROWS, replace=False)]
    targets = model.predict(x, batch_size=8192, verbose=0)
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Dense)][:-1]
    masks = [Masked(kernel) for kernel in kernels]
    for kernel, mask in zip(kernels, masks, strict=True):
        kernel.constraint = mask
    total = steps(len(x))
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, total)
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", steps_per_execution=_STEPS_A_CALL)
    schedule = Gradually(masks, sparsity, total, progress)
    whole = len(x) // BATCH * BATCH or len(x)
    model.fit(x[:whole], targets[:whole], batch_size=BATCH, epochs=EPOCHS, callbacks=[schedule], verbose=0)
    return model


def sparsity_of(model: Any) -> float:
    """Share of zero weights in the Dense layers but the last."""
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Dense)][:-1]
    zeros = sum(int((ops.convert_to_numpy(kernel) == 0).sum()) for kernel in kernels)
    return zeros / max(sum(int(np.prod(kernel.shape)) for kernel in kernels), 1)
