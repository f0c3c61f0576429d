"""Web pages in one file."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from composer_copypaste.visualize import html
from composer_copypaste.visualize.html import Cell, Section

HOSTILE = '<script>alert("1 & 2")</script>'
WITHOUT_END = {"meta", "img", "link", "br"}


class Reader(HTMLParser):
    """Reads a page; notes its tags, its texts by the innermost tag, and the attributes; refuses unbalanced tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in WITHOUT_END:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def texts_of(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]


def example_figure(label: str = "area") -> Figure:
    drawn = Figure(figsize=(5, 3))
    axes = drawn.subplots()
    axes.bar([1, 10, 100], [3, 2, 1], color="#0072B2", label=label)
    axes.set_xscale("log")
    axes.legend()
    return drawn


def example_page() -> str:
    grey = np.full((4, 6, 3), 128, np.uint8)
    parts = [html.paragraph(HOSTILE), html.warning(HOSTILE), html.code(HOSTILE), html.bullets([HOSTILE])]
    parts += [html.table([HOSTILE, "n"], [[HOSTILE, 1]], HOSTILE), html.image(grey, HOSTILE)]
    parts += [html.figure(example_figure(HOSTILE), HOSTILE)]
    return html.page(HOSTILE, [Section(HOSTILE, parts)] * 4)


def test_a_page_is_well_formed_and_shows_texts_as_they_are():
    read = Reader(example_page())
    assert len(read.named("script")) == 1
    for tag in ("title", "h1", "a", "p", "pre", "li", "th", "span", "figcaption", "text"):
        assert HOSTILE in read.texts_of(tag), tag
    assert {attributes["alt"] for attributes in read.named("img")} == {HOSTILE}


def test_long_names_of_rows_and_columns_may_go_on_in_a_new_line_and_short_ones_stay_whole():
    table = html.table(["run", "images that no_copy_paste needs"], [["each_object_with_a_long_name", 1], ["a=1", 2]])
    assert ">each_object_<wbr>with_a_long_<wbr>name</th>" in table
    assert ">images that no_copy_paste needs</th>" in table
    assert ">a=1</th>" in table


def test_a_page_fetches_nothing():
    page = example_page()
    assert "http:" not in page
    assert "https:" not in page
    references = [
        value
        for _, attributes in Reader(page).tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset")
    ]
    assert references
    assert [value for value in references if not value.startswith(("#", "data:"))] == []


def test_a_browser_runs_the_pages_own_script_alone():
    read = Reader(example_page())
    (policy,) = [meta["content"] for meta in read.named("meta") if "http-equiv" in meta]
    digest = base64.b64encode(hashlib.sha256("".join(read.texts_of("script")).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_same_content_gives_the_same_bytes():
    assert example_page() == example_page()


def test_every_link_has_a_place_to_go_to_and_no_two_places_have_one_name():
    sections = [Section(heading, [html.figure(example_figure(heading), "")]) for heading in ("Size", "size!", "…", "Ü")]
    read = Reader(html.page("t", sections))
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    links = [attributes["href"].removeprefix("#") for _, attributes in read.tags if "href" in attributes]
    links += re.findall(r"url\(#([^)]+)\)", " ".join(str(attributes) for _, attributes in read.tags))
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    assert {"size", "size-2", "section", "ü"} <= set(ids)


@pytest.mark.parametrize(("sections", "contents"), [(3, 0), (4, 1)])
def test_only_a_long_page_has_a_table_of_contents(sections, contents):
    read = Reader(html.page("t", [Section(f"part {number}", []) for number in range(sections)]))
    assert len(read.named("nav")) == contents


def test_numbers_stand_to_the_right_and_are_sorted_by_their_value():
    rows = [["a", 1234, Cell("12 %", 0.12), "x"], ["b", None, 4321.5, 2], ["c", float("nan"), 0.12345, None]]
    read = Reader(html.table(["name", "n", "share", "mixed"], rows))
    assert [cell.get("class") for cell in read.named("th")[:4]] == [None, "number", "number", None]
    assert read.texts_of("td") == ["1,234", "12 %", "x", "-", "4,322", "2", "-", "0.123", "-"]
    values = [cell.get("data-value") for cell in read.named("td")]
    assert values == ["1234", "0.12", None, None, "4321.5", "2", None, "0.12345", None]


def test_a_column_of_dashes_stands_where_its_numbers_would():
    read = Reader(html.table(["name", "n"], [["a", None], ["b", float("nan")]]))
    assert [cell.get("class") for cell in read.named("td")] == ["number", "number"]


def test_black_in_a_figure_follows_the_pages_text_and_other_colors_stay():
    svg = html.figure(example_figure(), "")
    assert "#000000" not in svg
    assert "stroke: currentColor" in svg
    assert "#0072b2" in svg
    assert "#ffffff" not in svg.lower()  # no white paper, of the figure, its axes or its legend


def test_a_dollar_sign_in_a_figure_is_a_character_and_powers_of_ten_are_not():
    read = Reader(html.figure(example_figure("5$ and \\frac$"), ""))
    assert "5$ and \\frac$" in read.texts_of("text")
    assert not [text for text in read.texts_of("text") if "mathdefault" in text]


def test_letters_that_the_plots_font_lacks_are_left_to_the_browser():
    assert "りんご" in Reader(html.figure(example_figure("りんご"), "")).texts_of("text")


def test_an_image_is_shown_with_its_pixels():
    stripes = torch.zeros(3, 8, 16, dtype=torch.uint8)
    stripes[0, :, ::2] = 200
    (shown,) = Reader(html.image(stripes, "stripes")).named("img")
    data = base64.b64decode(shown["src"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.array(Image.open(io.BytesIO(data))), stripes.permute(1, 2, 0).numpy())
    assert (shown["width"], shown["height"]) == ("16", "8")


def test_a_photograph_is_a_jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert html.image(noise).startswith('<figure><img src="data:image/jpeg;base64,')


def test_a_page_is_written_whole_into_a_new_folder(tmp_path):
    html.write_page(tmp_path / "new" / "a.html", html.page("half a character: \udcff", []))
    assert "half a character: \\udcff" in (tmp_path / "new" / "a.html").read_text()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.html"]


def test_cells_of_a_table_wrap_before_it_is_wider_than_the_page():
    rule = re.search(r"\ntable \{(.*?)\}", html.page("p", [])).group(1)
    assert "width" not in rule.replace("max-width", "")
