"""One loaded model: ONNX Runtime on one thread, checked against its manifest and warmed."""

from __future__ import annotations

import timeit
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

import model_store
from model_store import Manifest
from vigil.domains.spec import Domain
from vigil.errors import InvalidInput, ModelRefused, NotFound, quote
from vigil.scoring.external_data import has_external_data

Rows = npt.NDArray[np.float32]

# Vector code may treat what is left over after whole vectors differently, to the last bit: batches are
# filled up to a multiple of the first of these that makes a row's risk independent of its neighbours.
FILL_TO = (1, 2, 4, 8, 16)
PROBE_ROWS = 64
WARM_RUNS = 10


class Session:
    """Feature rows to risks. A row's risk is the same to the last bit alone and in any batch.

    Raises:
        ModelRefused: for a model where that cannot be had.

    Args:
        model: the ONNX file; input float32 [n, F], output float32 [n, 1].
        tag: name for people, such as `payments:x3k...`.
        version: the part of the tag behind the colon.
        digest: SHA-256 of the file.
        feature_names: names of the F columns, for messages.
        input_name: name of the input tensor.
        output_name: name of the output tensor.
        max_batch: most rows the model is given at once.
        manifest: what the store knows of it, where it comes from there.

    `row_s` says how many seconds one row takes.
    """

    def __init__(
        self,
        model: bytes,
        tag: str,
        version: str,
        digest: str,
        feature_names: Sequence[str],
        input_name: str = "features",
        output_name: str = "risk",
        max_batch: int = 1024,
        manifest: Manifest | None = None,
    ) -> None:
        if has_external_data(model):
            raise ModelRefused(f"model {tag}: it has weights in other files, which its digest does not cover")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.tag, self.version, self.digest, self.manifest = tag, version, digest, manifest
        self.feature_names = tuple(feature_names)
        self.width = len(self.feature_names)
        self.input_name, self.output_name = input_name, output_name
        self._outputs = [output_name]
        self._check_shape()
        self.max_batch = max(max_batch // FILL_TO[-1], 1) * FILL_TO[-1]
        self._fill_to = 1
        self._settle()
        self.row_s = self._row_s()

    @classmethod
    def load(cls, domain: Domain, alias: str, max_batch: int, trust: Path | None = None) -> Session:
        """The model `{domain}@{alias}` of the store, verified and warmed.

        Args:
            domain: whose model.
            alias: or a version.
            max_batch: most rows it is given at once.
            trust: as `model_store.verify` takes it.

        Raises:
            ConfigError: where `trust` cannot be read.
            NotFound: where the store has none; the message says which command makes one.
            ModelRefused: where the file is not what its manifest says, or made for other features.
        """
        stored = model_store.resolve(domain.name, alias)
        model = model_store.verify(stored, domain, trust)
        manifest = stored.manifest
        try:
            return cls(
                model,
                stored.tag,
                manifest.version,
                manifest.digest,
                domain.feature_names,
                manifest.input_name,
                manifest.output_name,
                max_batch,
                manifest,
            )
        except ModelRefused:
            raise
        except Exception as failure:  # ONNX Runtime's own have no common base
            raise ModelRefused(f"model {stored.tag}: ONNX Runtime cannot run it: {failure}") from failure

    def _check_shape(self) -> None:
        """Passes for a model with one input and one output, of the shapes that are given and taken here."""
        for what, found, name, width in (
            ("inputs", self._session.get_inputs(), self.input_name, self.width),
            ("outputs", self._session.get_outputs(), self.output_name, 1),
        ):
            said = [f"{each.name} {each.type} {each.shape}" for each in found]
            one = found[0] if len(found) == 1 else None
            sizes = list(one.shape) if one else []
            good = (
                one is not None
                and (one.name, one.type) == (name, "tensor(float)")
                and len(sizes) == 2
                and not isinstance(sizes[0], int)
                and (sizes[1] == width or not isinstance(sizes[1], int))
            )
            if not good:
                got, wanted = quote("; ".join(said), 200), f"{name} tensor(float) [n, {width}]"
                raise ModelRefused(f"model {self.tag}: {what}: got {got}, wanted {wanted}")

    def _settle(self) -> None:
        """Runs the batch sizes that will come: allocations are made, and how far to fill up is found."""
        width, random = len(self.feature_names), np.random.default_rng(0)
        probe = (random.standard_normal((self.max_batch, width)) * 10.0 ** random.integers(-2, 4, width)).astype("f4")
        for self._fill_to in FILL_TO:
            together = self.run(probe)[:PROBE_ROWS]
            sizes = (1, 2, 3, 5, 8, 13, 32, PROBE_ROWS)
            if all((self._in_parts(probe[:PROBE_ROWS], size) == together).all() for size in sizes):
                return
        raise ModelRefused(f"model {self.tag}: the risk of a row depends on the rows beside it; `vigil optimize` anew")

    def _row_s(self) -> float:
        """Seconds that one row takes: the best of a few, since an interruption only adds."""
        row = np.zeros((1, len(self.feature_names)), np.float32)
        return min(timeit.repeat(lambda: self.run(row), number=1, repeat=WARM_RUNS))

    def _in_parts(self, rows: Rows, size: int) -> Rows:
        return np.concatenate([self.run(rows[start : start + size]) for start in range(0, len(rows), size)])

    def run(self, rows: Rows) -> Rows:
        """Risks of feature rows.

        Args:
            rows: float32 [n, F], n >= 1.

        Returns:
            float32 [n], each in [0, 1].

        Raises:
            InvalidInput: naming the shape, or the row and column that is NaN or infinite.
        """
        width = self.width
        if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
            raise InvalidInput(f"features: got shape {list(rows.shape)}, wanted [n, {width}] with n >= 1")
        if not np.isfinite(rows).all():
            i, j = np.argwhere(~np.isfinite(rows))[0]
            value = quote(float(rows[i, j]))
            raise InvalidInput(f"features[{i}].{self.feature_names[j]}: got {value}, wanted a finite float32")
        step = self.max_batch
        parts = [self._fill(rows[start : start + step]) for start in range(0, len(rows), step)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _fill(self, rows: Rows) -> Rows:
        n = len(rows)
        if n % self._fill_to:
            padded = np.zeros((n + -n % self._fill_to, rows.shape[1]), np.float32)
            padded[:n] = rows
            rows = padded
        risks: Rows = self._session.run(self._outputs, {self.input_name: rows})[0]
        return risks[:n, 0]


def stored_versions(domain: Domain) -> list[str]:
    """Versions of the domain's model in the store, sorted; none where there is none."""
    try:
        return sorted(model_store.versions(domain.name))
    except NotFound:
        return []
