"""Draws a chart into an SVG or PNG file, for a mail or a wiki. matplotlib does it, where it is installed."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from textwrap import fill
from typing import Any

from ..errors import Failure, UsageError
from .charts import Chart, spread, steps

SUFFIXES = (".svg", ".png")

BARS, LINE = "#0a7f8c", "#b3387a"

MOST_LABELS = 10


def check(file: str) -> Path:
    """Where a chart is to be drawn. Raises UsageError for a name that doesn't say how, Failure without matplotlib."""
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{file}: a chart is drawn as svg or png: name a file that ends in .svg or .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise Failure(
            "drawing files takes matplotlib: `pip install 'llmgate[charts]'`; `--chart` without a file draws here"
        ) from error
    return path


def write(chart: Chart, path: Path) -> None:
    """Draw a chart into a file, which is replaced as a whole or not at all. Raises Failure."""
    data = _drawn(chart, path.suffix.lower().removeprefix("."))
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                Path(file.name).chmod(0o666 & ~_umask())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink()
                raise
    except OSError as error:
        raise Failure(f"{path} can't be written: {(error.strerror or str(error)).lower()}") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _drawn(chart: Chart, form: str) -> bytes:
    """White paper, whatever it is laid on: a mail or a wiki may be dark. Nothing in it depends on when it is drawn."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plain: Any = {"svg.fonttype": "none", "svg.hashsalt": "llmgate", "text.parse_math": False, "font.size": 10}
    with matplotlib.rc_context(plain):
        tall = 0.3 * len(chart.bars) + 0.6 if chart.bars else 0.0
        heights = [part for part in (tall, 3.2 if chart.series else 0.0) if part]
        figure = Figure(figsize=(9, sum(heights) + 1.0), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        figure.suptitle(f"{chart.title}, total {chart.said(chart.total)}\n{chart.about}", fontsize=11)
        panes = list(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        if chart.bars:
            _bars(panes.pop(0), chart)
        if chart.series:
            _series(panes.pop(0), chart)
        written = BytesIO()
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(written, format=form, dpi=144, metadata=metadata)
    return written.getvalue()


def _bars(pane: Any, chart: Chart) -> None:
    values = [float(point.value) for point in chart.bars]
    names = [fill(point.label, 40, max_lines=2, placeholder=" …") for point in chart.bars]
    bars = pane.barh(range(len(values)), values, color=BARS, height=0.7)
    told = [f"{chart.said(point.value)}  {part}" for point, part in zip(chart.bars, chart.shares, strict=True)]
    pane.bar_label(bars, told, padding=4, fontsize=9)
    pane.set_yticks(range(len(values)), names)
    pane.invert_yaxis()
    pane.set_xticks([])
    pane.set_xlim(0, 1.3 * max(values) or 1)  # room for what is written beside the bars
    pane.spines[["top", "right", "bottom"]].set_visible(False)


def _series(pane: Any, chart: Chart) -> None:
    number, sums = len(chart.series), chart.sums
    heights = [point.value for point in chart.series]
    pane.bar(range(number), [float(value) for value in heights], color=BARS, width=0.8)
    axes = [(pane, max(heights), BARS)]
    if number > 1:  # of a single one the sum is the bar
        beside = pane.twinx()
        beside.plot(range(number), [float(value) for value in sums], color=LINE, linewidth=1.8)
        beside.set_ylabel("sum since the first", color=LINE)
        axes.append((beside, sums[-1], LINE))
    for axis, most, color in axes:
        ticks = steps(most)
        axis.set_yticks(ticks, [chart.said(tick) for tick in ticks], color=color)
        axis.set_ylim(0, 1.02 * ticks[-1] or 1)
        axis.spines["top"].set_visible(False)
    labelled = spread(number, MOST_LABELS)
    pane.set_xticks(labelled, [chart.series[at].label for at in labelled])
    pane.set_xlim(-0.6, number - 0.4)
    pane.grid(axis="y", color="#dddddd", linewidth=0.6)
    pane.set_axisbelow(True)
    pane.set_ylabel(f"{chart.what} by {chart.bucket}", color=BARS)
