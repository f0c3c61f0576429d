"""How Sphinx builds the site from these pages: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # reference.py

import composer_copypaste

project = "composer-copypaste"
release = composer_copypaste.__version__
html_title = f"composer-copypaste {release}"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
exclude_patterns = ["_build"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "reference"]
myst_heading_anchors = 3  # a page may link to a heading of another: results.md#nuclei
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["config.cache"]  # autodoc's names are a function here

add_module_names = False
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

default_role = "py:obj"

nitpicky = True  # a name in a docstring that is documented nowhere is an error
OTHERS = (
    "collections|composer|detectron2|lightning|matplotlib|ndarray|np|numpy|omegaconf|pathlib|PIL|pytorch_lightning"
    "|streaming|supervision|Tensor|torch|torchmetrics|torchvision|typing"
)
nitpick_ignore_regex = [("py:.*", rf"({OTHERS})(\..*)?")]  # which have sites of their own
