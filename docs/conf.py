"""Configuration of Sphinx: theme, extensions, and the pages that are generated from the code before the build."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))  # for docs.generate, wherever Sphinx is started

from docs.generate import roles, write_pages  # noqa: E402
from emqa_dask import __version__  # noqa: E402

project = "emqa_dask"
author = "the maintainers of emqa_dask"
copyright = author
release = __version__
version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build", "_generated/*.md", "examples"]
source_suffix = {".md": "markdown"}
smartquotes = False  # two hyphens in front of an option stay two

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the Parameters section of a docstring says the types
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
autosummary_generate = False  # pages are Markdown, written by docs.generate
# Types have no page here, and those of other libraries are not looked up: the build uses no network.
nitpick_ignore_regex = [("py:func", r"(?!emqa_dask).*"), ("py:(class|obj|meth|attr|data|exc|mod)", ".*")]

html_theme = "pydata_sphinx_theme"
html_title = f"emqa_dask {release}"
html_static_path = ["_static"]
html_css_files = ["emqa.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {  # of pages that have none below them
    page: []
    for page in (
        "index",
        "getting-started",
        "interpretation",
        "architecture",
        "results",
        "glossary",
        "contributing",
        "changelog",
    )
}
html_theme_options = {
    "navbar_align": "left",
    "show_nav_level": 2,
    "secondary_sidebar_items": {"**": ["page-toc"], "results": [], "index": []},
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "show_prev_next": True,
}


def setup(app) -> None:
    roles.register(app)
    app.connect("builder-inited", lambda app: write_pages(DOCS / "_generated"))
