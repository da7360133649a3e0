"""Settings of the documentation site; `make docs` builds it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import api_text
import evidence_pages
from sphinx.application import Sphinx

import hf_selfdestruct

project = "hf_selfdestruct"
copyright = "hf_selfdestruct maintainers"
release = hf_selfdestruct.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated"]

html_theme = "furo"
html_title = "hf_selfdestruct"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_use_index = False  # the search finds names

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 88


def setup(app: Sphinx) -> None:
    """Connect what makes pages of committed evidence and prepares docstrings."""
    app.connect("source-read", evidence_pages.read)
    app.connect("autodoc-process-docstring", api_text.fences_to_directives)
    app.connect("autodoc-process-signature", api_text.short_signature)
