"""`python -m tests.cluster.pack NAME:TAG OUT.tar PROGRAM AT`: an image of one program and the libraries it loads."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path


def files(program: str, at: str) -> dict[str, str]:
    """Paths in the image to files here: the program, the loader, the libraries."""
    loaded = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return {at: program} | {path: path for path in re.findall(r"(/\S+) \(0x", loaded)}


def layer(found: dict[str, str]) -> bytes:
    """A tar of them, and a folder for what is temporary."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for inside, here in found.items():
            with Path(here).open("rb") as file:
                info = tarfile.TarInfo(inside.lstrip("/"))
                info.size, info.mode = Path(here).stat().st_size, 0o755
                archive.addfile(info, file)
    return out.getvalue()


def main(reference: str, out: str, program: str, at: str) -> None:
    """Writes a docker archive."""
    data = layer(files(program, at))
    digest = hashlib.sha256(data).hexdigest()
    about = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [at], "User": "10001", "Env": [f"PATH={Path(at).parent}"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    config = json.dumps(about).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": [reference], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(out, "w") as archive:
        for inside, content in (
            (f"{name}.json", config),
            (f"{digest}.tar", data),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(inside)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
