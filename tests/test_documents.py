"""What the documents say, tried."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def own_domain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder and the environment in which a reader has followed docs/your-own-domain.md to its section 3."""
    folder = tmp_path_factory.mktemp("own")
    for block in blocks("docs/your-own-domain.md", "python"):
        (folder / block.split("\n", 1)[0].removeprefix("# ")).write_text(block)
    env = os.environ | {
        "PYTHONPATH": str(folder),
        "BENTOML_HOME": str(folder / "bentoml"),
        "VIGIL_STATE_DIR": str(folder / "state"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    lines = re.findall(r"^\$ (.*)$", "\n".join(blocks("docs/your-own-domain.md", "console")), re.MULTILINE)
    for line in lines:
        if line.startswith(("python ", "vigil ")):
            done = subprocess.run(shlex.split(line), cwd=folder, env=env, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return folder, env


def test_a_domain_of_ones_own_trains_optimizes_and_scores_as_documented(
    own_domain: tuple[Path, dict[str, str]],
) -> None:
    folder, env = own_domain
    events = re.findall(r"-d '(\{.*?\})'", (ROOT / "docs/your-own-domain.md").read_text())
    script = (
        "import sys, time\nfrom vigil import settings\nfrom vigil.domains import load\n"
        "from vigil.engine import Engine\n"
        "engine = Engine.open(load('doors'), settings.load(), lambda: time.time_ns() // 1_000_000)\n"
        "events, _ = engine.schema.decode(sys.argv[1].encode())\n"
        "decision = engine.decide(events, time.time_ns() // 1_000_000).decisions[0]\n"
        "labels, _ = engine.schema.decode_feedback(sys.argv[2].encode())\n"
        "print(decision.tier, decision.action, decision.risk, *decision.reasons, *engine.feedback(labels))\n"
        "engine.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *events], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    tier, action, risk, *rest = done.stdout.split()
    assert tier == "full"
    assert action in ("open", "ask", "lock")
    assert 0 <= float(risk) <= 1
    assert rest[-1] == "labelled"


@pytest.mark.parametrize(
    "document", [*sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")), "README.md"]
)
def test_every_file_a_document_links_to_is_there(document: str) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / document).read_text()):
        assert ((ROOT / document).parent / target).exists(), target


def test_every_make_verb_the_readme_names_exists() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", (ROOT / "README.md").read_text())) <= verbs
