"""Hooks of mkdocs.

Links from the pages to files outside ``docs/`` lead to the repository, where those files are. Docstrings mark names
with the roles of Sphinx; the pages show the names alone.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any, Final

LINK: Final = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?(?=\))")

ROLE: Final = re.compile(r":(?:attr|class|data|exc|func|meth|mod):\s*<code>(?:~[\w.]*\.)?")


def on_page_content(html: str, **_: Any) -> str:
    """Take the roles away."""
    return ROLE.sub("<code>", html)


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrite the links of one page."""
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        if target.startswith("docs/") and not target.endswith("/") and "." in posixpath.basename(target):
            return link[0]
        return f"{config['extra']['repository']}/blob/main/{target}{link[2] or ''}"

    return LINK.sub(rewritten, markdown)
