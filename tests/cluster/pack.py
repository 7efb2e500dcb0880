"""`python -m tests.cluster.pack NAME:TAG OUT.tar HERE AT...`: an image of programs, folders and their libraries."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def files(here: str, at: str) -> dict[str, str]:
    """Paths in the image to files here: a program or all of a folder, the loader, the libraries."""
    parts = {at: here}
    if Path(here).is_dir():
        walked = [Path(folder) / name for folder, _, names in os.walk(here, followlinks=True) for name in names]
        parts = {f"{at}/{path.relative_to(here)}": str(path) for path in walked if path.is_file()}
    loaders = [path for path in parts.values() if path == here or path.endswith(".so")]
    loaded = subprocess.run(["ldd", *loaders], capture_output=True, text=True, check=False).stdout if loaders else ""
    return {path: path for path in re.findall(r"(/\S+) \(0x", loaded)} | parts


def layer(found: dict[str, str], out: str) -> None:
    """Writes a tar of them; links become what they lead to."""
    with tarfile.open(out, mode="w", dereference=True) as archive:
        for inside, here in found.items():
            info = archive.gettarinfo(here, inside.lstrip("/"))
            info.type, info.uid, info.gid, info.mode, info.mtime = tarfile.REGTYPE, 0, 0, 0o755, 0
            info.size = Path(here).stat().st_size
            with Path(here).open("rb") as file:
                archive.addfile(info, file)


def main(reference: str, out: str, *pairs: str) -> None:
    """Writes a docker archive; the first program is what it runs."""
    found: dict[str, str] = {}
    for here, at in zip(pairs[::2], pairs[1::2], strict=True):
        found |= files(here, at)
    with tempfile.NamedTemporaryFile(dir=Path(out).parent) as data, tarfile.open(out, "w") as archive:
        layer(found, data.name)
        digest = hashlib.file_digest(data, "sha256").hexdigest()
        about = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": [pairs[1]], "User": "10001", "Env": [f"PATH={Path(pairs[1]).parent}"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        config = json.dumps(about).encode()
        name = hashlib.sha256(config).hexdigest()
        manifest = [{"Config": f"{name}.json", "RepoTags": [reference], "Layers": [f"{digest}.tar"]}]
        archive.add(data.name, f"{digest}.tar")
        for inside, content in ((f"{name}.json", config), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(inside)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
