"""The stages of a run as a drawing: what reads what, in columns from left to right."""

from collections.abc import Mapping, Sequence
from html import escape

from pipeline_lib.reporting.provenance import Stage, in_order, predecessors

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y = 124, 44, 34, 22


def draw_dag(stages: Sequence[Stage], captions: Mapping[str, str]) -> str:
    """SVG to stand inside a page.

    Args:
        captions: a stage -> a short second line for its box, e.g. its seconds; stages without one have none.

    Raises:
        ValueError: if the stages depend on each other in a circle.
    """
    stages = in_order(stages)
    places = _places(stages)
    width = (1 + max(column for column, _ in places.values())) * (BOX_WIDTH + GAP_X) - GAP_X
    height = (1 + max(row for _, row in places.values())) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    arrows = "".join(_arrow(places[name], places[stage.name]) for stage in stages for name in direct(stage, stages))
    boxes = "".join(_box(stage.name, captions.get(stage.name, ""), places[stage.name]) for stage in stages)
    title = " -> ".join(stage.name for stage in stages)
    return (f'<svg role="img" xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width + 4:g} {height + 4:g}" '
            f'width="{width + 4:g}" height="{height + 4:g}" font-family="Helvetica, Arial, sans-serif" font-size="12">'
            f"<title>{escape(title)}</title>{arrows}{boxes}</svg>")


def direct(stage: Stage, stages: Sequence[Stage]) -> list[str]:
    """Names of the stages that ``stage`` reads, without those that another of them has read already."""
    before = predecessors(stage, stages)
    return [one.name for one in before if not any(one in _ancestors(other, stages) for other in before)]


def _ancestors(stage: Stage, stages: Sequence[Stage]) -> list[Stage]:
    found = predecessors(stage, stages)
    for one in found:  # grows while it is walked
        found += [other for other in predecessors(one, stages) if other not in found]
    return found


def _places(stages: Sequence[Stage]) -> dict[str, tuple[int, int]]:
    """Column and row of each stage: one column behind the last that it reads, rows filled from the top."""
    column: dict[str, int] = {}
    filled: dict[int, int] = {}
    places = {}
    for stage in stages:
        column[stage.name] = 1 + max((column[name] for name in direct(stage, stages)), default=-1)
        row = filled.get(column[stage.name], 0)
        filled[column[stage.name]] = row + 1
        places[stage.name] = (column[stage.name], row)
    return places


def _corner(place: tuple[int, int]) -> tuple[float, float]:
    return place[0] * (BOX_WIDTH + GAP_X), place[1] * (BOX_HEIGHT + GAP_Y)


def _box(name: str, caption: str, place: tuple[int, int]) -> str:
    x, y = _corner(place)
    middle, line = x + BOX_WIDTH / 2, y + (18 if caption else 26)
    below = f'<text x="{middle:g}" y="{y + 34:g}" text-anchor="middle" font-size="10">{escape(caption)}</text>'
    return (f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="4" fill="#fff" stroke="#000"/>'
            f'<text x="{middle:g}" y="{line:g}" text-anchor="middle">{escape(name)}</text>{below if caption else ""}')


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x, y), (to_x, to_y) = _corner(start), _corner(end)
    x, y, to_y = x + BOX_WIDTH, y + BOX_HEIGHT / 2, to_y + BOX_HEIGHT / 2
    head = f"M{to_x - 6:g} {to_y - 4:g} L{to_x:g} {to_y:g} L{to_x - 6:g} {to_y + 4:g}"
    return f'<path d="M{x:g} {y:g} L{to_x:g} {to_y:g} {head}" fill="none" stroke="#000"/>'
