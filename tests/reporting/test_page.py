import base64
import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from pipeline_lib.reporting import charts
from pipeline_lib.reporting.charts import bar_chart, bar_charts, line_chart
from pipeline_lib.reporting.dag import direct, draw_dag
from pipeline_lib.reporting.page import Section, bullets, fold, image, paragraph, render_page, table
from pipeline_lib.reporting.provenance import Stage, in_order

STAGES = [Stage("train", ("tokens", "split", "vectors"), {"model": "m"}), Stage("split", ("raw",), {"split": "s"}),
          Stage("embed@a", ("split",), {"vectors": "v"}), Stage("embed@b", ("split",), {"other": "o"}),
          Stage("quantize", ("vectors", "other", "split"), {"tokens": "t"})]


def text_of(svg):
    return " ".join(ElementTree.fromstring(svg).itertext())


def test_a_page_is_well_formed_and_its_links_lead_to_sections():
    body = table(["a", "b"], [["x<y", 0.12345], ["z & w", None]], "a caption") + fold("open me", bullets(["<b>in</b>"]))
    page = render_page("Title <1>", [Section("one", "First", body), Section("two", "Second", paragraph("a < b"))])
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    assert {link.get("href") for link in root.iter("a")} == {"#one", "#two"} and ids == {"one", "two"}
    assert [cell.text for cell in root.iter("td")] == ["x<y", "0.1235", "z & w", "-"]
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and "<script" not in page


def test_sections_that_say_nothing_or_share_an_anchor_are_refused():
    with pytest.raises(ValueError, match="section two is empty"):
        render_page("t", [Section("one", "1", "x"), Section("two", "2", " ")])
    with pytest.raises(ValueError, match="share an anchor"):
        render_page("t", [Section("one", "1", "x"), Section("one", "2", "y")])


def test_an_image_is_inside_the_page():
    html = image(b"<svg/>", 'a "caption"')
    assert base64.b64decode(re.search(r"base64,([^\"]+)", html).group(1)) == b"<svg/>"
    assert ElementTree.fromstring(html).find("img").get("alt") == 'a "caption"'


def test_stages_come_behind_what_they_read():
    names = [stage.name for stage in in_order(STAGES)]
    assert names[0] == "split" and names[-1] == "train" and names.index("quantize") == 3
    with pytest.raises(ValueError, match="a, b depend on each other in a circle"):
        in_order([Stage("a", ("y",), {"x": ""}), Stage("b", ("x",), {"y": ""})])


def test_an_arrow_that_a_longer_way_implies_is_left_out():
    assert direct(STAGES[0], STAGES) == ["quantize"]  # split and vectors come through it
    assert direct(STAGES[4], STAGES) == ["embed@a", "embed@b"]


def test_the_drawing_has_every_stage_with_its_caption_and_the_direct_arrows():
    svg = draw_dag(STAGES, {"train": "9 s"})
    assert all(stage.name in text_of(svg) for stage in STAGES) and "9 s" in text_of(svg)
    assert svg.count("<path") == 5 and svg.count("<rect") == 5
    boxes = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")
    assert len({(box.get("x"), box.get("y")) for box in boxes}) == 5


def test_charts_name_their_axes_and_lines_and_repeat_to_the_byte():
    lines = {"first": [(1, 2.0), (2, 3.0)], "second": [(1, 1.0), (2, 1.5)]}
    drawn = line_chart(lines, x="epoch", y="loss (nats)")
    assert all(word in text_of(drawn) for word in ("epoch", "loss (nats)", "first", "second"))
    assert drawn == line_chart(lines, x="epoch", y="loss (nats)")
    bars = text_of(bar_chart(["1", "2"], {"recall@10": [0.25, 0.5]}, x="group", y="recall@10"))
    assert "0.25" in bars and "0.5" in bars and "group" in bars
    panels = text_of(bar_charts(["1", "2"], {"here": {"a": [1, 2], "b": [3, 4]}, "there": {"a": [5, 6]}},
                                x="group", y="recall"))
    assert all(word in panels for word in ("here", "there", "a", "b")) and panels.count("group") == 2


@pytest.fixture
def axes(monkeypatch):
    """Where the next chart is drawn."""
    axes = Figure().subplots()
    monkeypatch.setattr(charts, "draw_svg", lambda panel, size: panel(axes))
    return axes


def test_twenty_bars_differ_without_colour(axes):
    bar_chart(["1", "2"], {f"method {place}": [1.0, 2.0] for place in range(20)}, x="group", y="recall")
    assert len({(bars[0].get_hatch(), bars[0].get_facecolor()) for bars in axes.containers}) == 20


def test_twenty_long_lines_differ_without_colour(axes):
    line_chart({f"level {place}": [(step, place) for step in range(200)] for place in range(20)}, x="rank", y="items")
    assert len({(line.get_linestyle(), line.get_marker()) for line in axes.lines}) == 20
    assert {line.get_marker() for line in axes.lines} & {"", "None"} == set()
    assert all(line.get_markevery() is not None for line in axes.lines)  # 200 of them would be a bar
