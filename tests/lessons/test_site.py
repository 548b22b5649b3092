"""The site's sources. Sphinx, which builds it, is not asked: it is in the group `site`, and takes minutes."""

import re

import pytest

from course import site

PAGES = sorted((site.PROJECT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_of_the_site_link_to_what_is_there(page):
    """A link to a source file, or to a page of another name, of which Sphinx makes an error: there would be no site."""
    links = LINK.findall(site.page_for_site(page.read_text(encoding="utf-8")))
    local = {link.partition("#")[0] for link in links if not link.startswith(("http", "#"))}
    assert local <= {other.name for other in PAGES}


def test_the_name_of_a_source_file_remains():
    """A sentence without the word that was the link."""
    text = "By [routes.py](../minifcn/ops/routes.py), see [here](convolution.md#on-a-gpu)."
    assert site.page_for_site(text) == "By `routes.py`, see [here](convolution.md#on-a-gpu)."
