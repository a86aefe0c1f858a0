"""The displays of the gallery keep to the measures and colours that all displays share."""

from __future__ import annotations

import re

import pytest
from gallery import GALLERY
from parsed import Parsed, check_html

from datafast_nb.display import html

SIZES = {"16px", "15px", "13px", "12px", "11px"}
COLOURS = {"#2b9a66", "#2f7fe0", "#e5484d", "#b8720a", "#808080"}
TINTS = {
    "rgba(128,128,128,.25)",  # hairlines
    "rgba(128,128,128,.6)",  # bars of a funnel
    "rgba(47,127,224,.6)",  # below a field of a template
    "rgba(43,154,102,.18)",  # inserted
    "rgba(229,72,77,.16)",  # deleted
}
# Dropped by JupyterLab from notebooks that are not trusted, or read differently there.
DROPPED = ("var(", "inherit", "overflow-wrap", "anywhere", "flex", "grid")


@pytest.fixture(scope="module", params=GALLERY)
def drawn(request: pytest.FixtureRequest) -> Parsed:
    return check_html(html.draw(GALLERY[request.param]()))


def styles(drawn: Parsed, *tags: str) -> list[tuple[str, str]]:
    return [
        (tag, dict(attributes).get("style") or "")
        for tag, attributes in drawn.elements
        if not tags or tag in tags
    ]


def declared(style: str, name: str) -> list[str]:
    return re.findall(rf"(?:^|;){name}:([^;]+)", style)


def test_texts_have_few_sizes_and_two_weights(drawn: Parsed) -> None:
    for _, style in styles(drawn):
        assert set(declared(style, "font-size")) <= SIZES
        assert set(declared(style, "font-weight")) <= {"400", "600"}
    assert sum(declared(s, "font-size") == ["16px"] for _, s in styles(drawn)) == 1


def test_colours_are_those_of_marks_and_lines(drawn: Parsed) -> None:
    for _, style in styles(drawn):
        assert set(re.findall(r"#[0-9a-f]+", style)) <= COLOURS
        assert set(re.findall(r"rgba\([^)]*\)", style)) <= TINTS


@pytest.mark.parametrize("name", GALLERY)
def test_colour_stands_on_signs_alone(name: str) -> None:
    source = html.draw(GALLERY[name]())
    coloured = re.findall(r'style="(?:[^"]*;)?color:[^"]*">(.*?)<', source)
    assert set(coloured) <= set("●○◌✕–✓+!")
    assert coloured


def test_no_row_or_cell_takes_what_the_page_says_of_tables(drawn: Parsed) -> None:
    for _, style in styles(drawn, "tr"):
        assert declared(style, "background") == ["none"]
    for _, style in styles(drawn, "td", "th"):
        assert declared(style, "text-align")[-1:] in (["left"], ["right"])
    for _, style in styles(drawn, "table"):
        assert declared(style, "table-layout")[-1] in ("auto", "fixed")


def test_pictures_are_never_shrunk(drawn: Parsed) -> None:
    for image in drawn.images:
        assert f"min-width:{image['width']}px" in (image["style"] or "")


def test_nothing_that_matters_is_dropped_from_untrusted_notebooks(drawn: Parsed) -> None:
    assert not [s for _, s in styles(drawn) for word in DROPPED if word in s]


def test_numbers_stand_at_the_right_their_header_too() -> None:
    drawn = check_html(html.draw(GALLERY["estimate"]()))
    sides = [declared(s, "text-align")[-1] for _, s in styles(drawn, "th")]
    assert sides == ["left"] + ["right"] * 8
    cells = [declared(s, "text-align")[-1] for _, s in styles(drawn, "td")]
    assert cells[: 9 * 6] == sides * 6


@pytest.mark.parametrize("name", GALLERY)
def test_a_display_of_the_gallery_is_drawn_in_full(name: str) -> None:
    source = html.draw(GALLERY[name]())
    assert len(source.encode()) <= html.TYPICAL_BYTES
    assert source == html.draw(GALLERY[name]())


def test_what_was_cut_opens_behind_it() -> None:
    drawn = check_html(html.draw(GALLERY["result"]()))
    found = re.findall(r"Two branchial … \+316hearts push blood.*?haemocyanin\.", drawn.text)
    assert len(found) == 1
