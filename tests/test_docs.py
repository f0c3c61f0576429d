"""The site's pages name what there is."""

import re
from collections import Counter
from pathlib import Path

import composer_copypaste

DOCS = Path(__file__).parent.parent / "docs"


def test_the_reference_shows_each_public_name_once():
    pages = [page.read_text() for page in (DOCS / "api").glob("*.rst")]
    shown = Counter(re.findall(r"^\.\. auto\w+:: (\w+)$", "\n".join(pages), re.MULTILINE))
    errors = (DOCS / "api" / "errors.rst").read_text()
    expected = {*composer_copypaste._HOMES, *re.findall(r":: (\w+)$", errors, re.MULTILINE)}
    assert shown == Counter(dict.fromkeys(expected, 1))
