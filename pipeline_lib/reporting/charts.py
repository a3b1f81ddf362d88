"""Charts of the report as SVG, with axes, units and legends; marker, dash and hatch tell them apart without colour."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# taken in turn, as many as have no common divisor, so that 28 lines, or bars, differ from each other
DASHES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "x", "D", "v", "+")
GREYS, HATCHES = ("0.45", "0.85", "0.65", "1.0"), ("", "///", "...", "xxx", "---", "\\\\\\", "+++")
MARKED = 60  # points that have a marker each; on longer lines markers stand a tenth of the chart apart

Points = Sequence[tuple[float, float]]


def line_chart(lines: Mapping[str, Points], *, x: str, y: str, log: bool = False) -> bytes:
    """Named lines; ``x`` and ``y`` are axis labels with their unit, ``log`` makes both axes logarithmic."""
    def draw(axes) -> None:
        for place, (name, points) in enumerate(lines.items()):
            apart = None if len(points) <= MARKED else (0.1 * place / len(lines), 0.1)
            axes.plot(*zip(*points, strict=True), DASHES[place % len(DASHES)], marker=MARKERS[place % len(MARKERS)],
                      markevery=apart, markersize=4, color="black", linewidth=1.2, label=name)
        if log:
            axes.set(xscale="log", yscale="log")
        if len(lines) > 1:
            axes.legend(fontsize=8)
    return _chart([draw], x, y)


def bar_chart(labels: Sequence[str], bars: Mapping[str, Sequence[float]], *, x: str, y: str) -> bytes:
    """Groups of bars side by side, one a name of ``bars``, each with its value above it."""
    return bar_charts(labels, {"": bars}, x=x, y=y)


def bar_charts(labels: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[float]]], *, x: str, y: str) -> bytes:
    """``bar_chart`` once a panel, beside each other under their names."""
    def draw(axes, title: str, bars: Mapping[str, Sequence[float]]) -> None:
        width = 0.8 / len(bars)
        for place, (name, values) in enumerate(bars.items()):
            at = [index + (place - (len(bars) - 1) / 2) * width for index in range(len(labels))]
            drawn = axes.bar(at, values, width, label=name, color=GREYS[place % len(GREYS)], edgecolor="black",
                             hatch=HATCHES[place % len(HATCHES)], linewidth=0.7)
            axes.bar_label(drawn, fmt="%.3g", fontsize=7, rotation=90 if len(bars) > 3 else 0, padding=2)
        axes.margins(y=0.18)  # room for the upright values
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        if title:
            axes.set_title(title, fontsize=9)
        if len(bars) > 1:
            axes.legend(fontsize=8)
    return _chart([lambda axes, title=title, bars=bars: draw(axes, title, bars)
                   for title, bars in panels.items()], x, y)


def draw_svg(*panels: Callable[[Any], None], size: tuple[float, float] = (5.5, 4.5)) -> bytes:
    """Panels side by side as one SVG, each drawn on matplotlib axes of its own; ``size`` of one, in inches."""
    import matplotlib  # a second to import, and only some methods have a figure of their own

    matplotlib.use("svg")
    from matplotlib import pyplot

    width, height = size
    with pyplot.rc_context({"svg.hashsalt": "sidflow", "svg.fonttype": "none"}):  # equal data, equal bytes
        figure, axes = pyplot.subplots(1, len(panels), figsize=(width * len(panels), height), squeeze=False,
                                       layout="constrained")
        for panel, place in zip(panels, axes[0]):
            panel(place)
        image = io.BytesIO()
        figure.savefig(image, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return image.getvalue()


def _chart(draws: Sequence[Callable[[Any], None]], x: str, y: str) -> bytes:
    def panel(draw: Callable[[Any], None]) -> Callable[[Any], None]:
        def drawn(axes) -> None:
            draw(axes)
            axes.set(xlabel=x, ylabel=y)
            axes.spines[["top", "right"]].set_visible(False)
        return drawn
    return draw_svg(*map(panel, draws), size=(6.2, 3.4))
