"""How the documentation is built: `make docs`. Nothing of it comes from another site."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "mdlbench"
copyright = "the authors of mdlbench"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "generated",
]
exclude_patterns = ["reproduced/*/table.md", "studies/*/report/table.md"]

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
default_role = "code"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "mdlbench"
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
