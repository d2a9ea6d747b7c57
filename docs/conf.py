"""How the pages become a site: `make docs`. Everything on it is local; a link that leads nowhere ends the build."""

import re
import sys
from pathlib import Path

from pygments.lexers.data import JsonLexer
from sphinx.application import Sphinx
from sphinx.highlighting import lexers

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

import olivine  # noqa: E402 - the path comes first

project = "olivine"
author = copyright = "The olivine authors"  # noqa: A001 - Sphinx's name
version = release = olivine.__version__

extensions = ["myst_parser", "sphinx_click", "reference"]
root_doc = "index"
exclude_patterns = ["README.md", "_ext"]
myst_enable_extensions = ["colon_fence", "fieldlist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # generated pages begin where their place in the tree is
nitpicky = True
locale_dirs = ["locale"]
gettext_compact = False

html_theme = "furo"
html_title = f"olivine {version}"
html_static_path: list[str] = []
html_show_sphinx = False
html_copy_source = False

lexers["jsonl"] = JsonLexer()  # Pygments has no name for JSON lines

LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")


def setup(app: Sphinx) -> None:
    """Links to files of the repository that are no pages become their names."""
    app.connect("source-read", name_files)


def name_files(_: Sphinx, docname: str, source: list[str]) -> None:
    """`[text](../examples/x)` as text and `examples/x`; a link to another page stays."""
    folder = (HERE / docname).parent

    def named(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(HERE):
            return link[0]
        if not target.exists():
            raise ValueError(f"{docname} points to {link[2]}, which is not there")
        return f"{link[1]} (`{target.relative_to(HERE.parent).as_posix()}`)"

    source[0] = LINK.sub(named, source[0])
