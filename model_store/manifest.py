"""What a stored model says of itself: `manifest.json` beside `model.onnx`."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from vigil.errors import ModelRefused, quote

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known of a model without opening it.

    Args:
        domain: whose events it scores; also the model's name in the store.
        version: given by the store.
        digest: SHA-256 of `model.onnx`, 64 hex digits.
        spec_hash: of the feature spec it was trained on.
        feature_names: the columns of the input, in order.
        candidate: which of the candidates of `optimize` it is, such as "fp32 fused".
        metrics: of the training run, by name.
        candidates: one row for each candidate that was measured.
        data_from: time of the first event of the history, RFC 3339.
        data_to: time of the last one.
        code_commit: the code that trained it.
        created: when it was stored, RFC 3339.
        input_name: the input tensor, float32 [n, F].
        output_name: the output tensor, float32 [n, 1]: calibrated risks.
        format: version of this layout.
        risk_edges: of bins of its risks on the validation rows, ascending; () where nobody looked.
        risk_shares: of these risks in each bin, one more than edges.
    """

    domain: str
    version: str
    digest: str
    spec_hash: str
    feature_names: tuple[str, ...]
    candidate: str
    metrics: dict[str, Any]
    candidates: tuple[dict[str, Any], ...]
    data_from: str
    data_to: str
    code_commit: str
    created: str
    input_name: str = "features"
    output_name: str = "risk"
    format: int = FORMAT
    risk_edges: tuple[float, ...] = ()
    risk_shares: tuple[float, ...] = ()

    @property
    def tag(self) -> str:
        """Name and version as BentoML writes them: `payments:20261001120000000`."""
        return f"{self.domain}:{self.version}"

    @property
    def created_s(self) -> float:
        """When it was stored, seconds since 1970."""
        return datetime.fromisoformat(self.created).timestamp()

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` into `folder`."""
        (folder / MANIFEST_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in `folder`.

        Raises:
            ModelRefused: where it is missing, is not JSON, lacks a key or has another layout.
        """
        file = folder / MANIFEST_FILE
        try:
            content = file.read_bytes()
        except OSError as failure:
            raise ModelRefused(f"{file}: no readable manifest: {failure}") from None
        return cls.parse(content, file)

    @classmethod
    def parse(cls, content: bytes, file: Path) -> Manifest:
        """As `read`, of what is in the file already."""
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as failure:
            raise ModelRefused(f"{file}: no readable manifest: {failure}") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            layout = found.get("format") if isinstance(found, dict) else found
            raise ModelRefused(f"{file}: got manifest format {quote(layout)}, wanted {FORMAT}")
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        odd = sorted(needed - set(found)) + sorted(set(found) - known)
        if odd:
            raise ModelRefused(f"{file}: keys that are missing or unknown: {', '.join(odd)}")
        lists = ("feature_names", "candidates", "risk_edges", "risk_shares")
        manifest = cls(**(found | {name: tuple(found[name]) for name in lists if name in found}))
        try:
            manifest.created_s  # noqa: B018 (parsed)
        except (TypeError, ValueError):
            raise ModelRefused(f"{file}: created: got {quote(manifest.created)}, wanted a time as RFC 3339") from None
        return manifest
