"""Draws a chart with the signs of a terminal, as wide as that is; without colours where there is none.

rich draws the bars, because names and amounts stand beside them whole; plotext draws what has two axes.
"""

from __future__ import annotations

import sys

import plotext
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from ..errors import UsageError
from .charts import Chart, spread, steps
from .output import ascii_only
from .screen import terminal

HEIGHT = 15
"""Lines of the series."""

BARS, LINE = "cyan", "magenta"
"""Colours of the terminal's own palette, which can be seen on dark and on light."""


def draw(chart: Chart) -> None:
    """Write a chart to stdout."""
    if ascii_only():
        raise UsageError("bars can't be written in this encoding: set it to UTF-8, or name a file, --chart report.svg")
    out = terminal()
    out.print(Text(chart.title, style="bold"), Text(chart.about, style="dim"), sep="\n")
    if chart.bars:
        out.print()
        out.print(_bars(chart, out.width))
    if chart.series:
        series = f"{chart.what} by {chart.bucket}" if chart.bars else chart.what
        sums = ("   ", ("⠤⠒ ", LINE), "sum since the first, right") if len(chart.series) > 1 else ()
        out.print(Text.assemble("\n", ("█ ", BARS), f"{series}, left" if sums else series, *sums))
        plain = out.color_system is None
        sys.stdout.write(f"{_series(chart, out.width, plain=plain)}\n")
    out.print(Text.assemble("total ", (chart.said(chart.total), "bold")))


def _bars(chart: Chart, width: int) -> Table:
    """A bar is never thinner than the thinnest sign: what is there is seen."""
    said = [chart.said(point.value) for point in chart.bars]
    decimals = max(len(text.partition(".")[2]) for text in said)
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(overflow="fold", max_width=max(12, width // 3))
    table.add_column(ratio=1, no_wrap=True)
    table.add_column(justify="right", overflow="fold")
    table.add_column(justify="right")
    most = max(point.value for point in chart.bars) or 1
    least = most / (2 * width)  # the bars get a third of the width at the least, and a column has eight signs
    for point, text, share in zip(chart.bars, said, chart.shares, strict=True):
        missing = "0" * (decimals - len(text.partition(".")[2]))
        bar = Bar(most, 0, max(point.value, least) if point.value else 0, color=BARS)
        table.add_row(Text(point.label), bar, Text(text + missing), Text(share, style="dim"))
    return table


def _series(chart: Chart, width: int, *, plain: bool) -> str:
    number, sums = len(chart.series), chart.sums
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, HEIGHT)
    heights = [point.value for point in chart.series]
    figure.draw(figure.bar(list(range(number)), heights, width=0.6, marker=plotext.marker("hd", BARS)))
    if number > 1:  # of a single one the sum is the bar
        line = figure.signal(list(range(number)), sums, yside="right", marker=plotext.marker("braille", LINE))
        line.lines()
        figure.draw(line)
    for side, most in enumerate((max(heights), sums[-1])[:number]):
        ticks = steps(most)
        figure.ruler("y", side).lim(0, ticks[-1] or 1)
        figure.ruler("y", side).ticks(ticks, [chart.said(tick) for tick in ticks])
    labelled = spread(number, (width - 20) // (len(chart.series[0].label) + 2))
    figure.ruler("x").lim(-0.5, number - 0.5)
    figure.ruler("x").ticks(labelled, [chart.series[at].label for at in labelled])
    figure.axes(False, side=1, axis=0)
    text: str = figure.build().string()
    return "\n".join(line.rstrip() for line in plotext.uncolorize(text).splitlines()) if plain else text
