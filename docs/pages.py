"""The pages of the site, at their paths in the repository: links work here and on the forge. A hook of MkDocs."""

from __future__ import annotations

import fnmatch
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

FILES = ("*.md", "helm/README.md", "docs/**/*.md", "docs/site.css")
API = ("decisions", "domains", "engine", "errors", "features", "feed", "observe", "replay", "scoring", "serving")
API += ("settings", "stream", "transports")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
MERMAID = "assets/mermaid.js"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the files of the theme, our pages, the files of the repository that they link to, and the API pages."""
    root = Path(config.config_file_path).parent
    taken = Files(file for file in files if file.src_dir != config.docs_dir)
    pages = [path for pattern in FILES for path in sorted(root.glob(pattern))]
    linked = {(page.parent / target).resolve() for page in pages for target in LINK.findall(page.read_text())}
    for path in [*pages, *sorted(linked.difference(pages))]:
        if path.is_file() and path.is_relative_to(root):
            name = path.relative_to(root).as_posix()
            taken.append(File.generated(config, name, abs_src_path=str(path)))
    for name in API:
        text = f"---\ntitle: vigil.{name}\n---\n\n::: vigil.{name}\n"
        taken.append(File.generated(config, f"api/{name}.md", content=text))
    mermaid = distribution("mermaidx").locate_file("mermaidx/assets/mermaid.js")
    taken.append(File.generated(config, MERMAID, abs_src_path=str(mermaid)))
    config.nav = _expand(config.nav, [file.src_uri for file in taken.documentation_pages()])
    return taken


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Adds mermaid.js to pages with a diagram. Without it the theme downloads a copy."""
    script = f'<script src="{get_relative_url(MERMAID, page.url)}"></script>'
    return html + script if '<pre class="mermaid">' in html else html


def _expand(entry: Any, names: list[str]) -> list[Any]:
    """Returns the navigation with each pattern replaced by its pages. MkDocs warns of an entry that matches none."""
    if isinstance(entry, dict):
        return [{title: inner if inner in names else _expand(inner, names)} for title, inner in entry.items()]
    if isinstance(entry, list):
        return [each for inner in entry for each in _expand(inner, names)]
    return fnmatch.filter(names, entry) or [entry]
