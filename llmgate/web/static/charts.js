/* Draws the charts of a page from its tables, so that the two can't differ. Without this script the tables are there.
 *
 *   <figure data-chart="bars|days|stack" data-table="ID" data-title="…" data-file="….png" hidden>
 *
 * has a canvas and a button in it. Of the table, columns are drawn whose <th> has data-draw="bar|line", in the colour
 * data-series (1, 2 …; 0: the others). Cells have <data value="12.5">$12.50</data>: the value makes the length, the
 * text is what is read. With data-others="drawn" the last row is the others, with "left out" it isn't drawn.
 */
"use strict";

(() => {
  const COLOURS = 8; // then the same again, hatched
  const WIDE = 1200; // pixels of a picture that is saved, at twice the density
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function read(table) {
    const { money, others } = table.dataset;
    const rows = [...table.tBodies[0].rows].slice(0, others === "left out" ? -1 : undefined);
    const series = [...table.tHead.rows[0].cells].flatMap((head, at) =>
      head.dataset.draw
        ? {
            label: head.textContent.trim(),
            draw: head.dataset.draw,
            colour: head.dataset.series,
            cells: rows.map((row) => row.cells[at].querySelector("data")),
          }
        : [],
    );
    const labels = rows.map((row) => row.cells[0].textContent.trim());
    return { labels, series, rows, money: !!money, others: others === "drawn" };
  }

  function colours(figure) {
    const style = getComputedStyle(figure);
    const of = (name) => style.getPropertyValue(name).trim();
    return {
      text: of("--chart-text"),
      grid: of("--chart-grid"),
      page: of("--chart-page"),
      line: of("--chart-line"),
      series(number) {
        if (number === undefined) return of("--chart-bar");
        if (number === "0") return of("--series-0");
        return hatched(of(`--series-${((number - 1) % COLOURS) + 1}`), of("--chart-page"), number);
      },
    };
  }

  function hatched(colour, page, number) {
    const times = Math.floor((number - 1) / COLOURS);
    if (times === 0) return colour;
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const pen = tile.getContext("2d");
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 8, 8);
    pen.strokeStyle = page;
    pen.lineWidth = 2;
    pen.beginPath();
    for (const from of [-8, 0, 8]) {
      pen.moveTo(from, 8);
      pen.lineTo(from + 8, 0);
      if (times > 1) {
        pen.moveTo(from, 0);
        pen.lineTo(from + 8, 8);
      }
    }
    pen.stroke();
    return pen.createPattern(tile, "repeat");
  }

  const round = (value, money) =>
    new Intl.NumberFormat("en-US", {
      notation: Math.abs(value) < 10000 ? "standard" : "compact",
      maximumFractionDigits: Math.abs(value) < 1 ? 9 : 2,
      minimumFractionDigits: 0,
      ...(money && { style: "currency", currency: "USD" }),
    }).format(value);

  const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  function settings(figure, told, saved) {
    const kind = figure.dataset.chart;
    const colour = colours(figure);
    const amounts = (more) => ({
      beginAtZero: true,
      border: { display: false },
      grid: { color: colour.grid },
      ticks: { color: colour.text, maxTicksLimit: 5, maxRotation: 0, callback: (value) => round(value, told.money) },
      ...more,
    });
    const names = {
      stacked: kind === "stack",
      border: { color: colour.grid },
      grid: { display: false },
      ticks: {
        color: colour.text,
        autoSkip: kind !== "bars",
        autoSkipPadding: 12,
        maxRotation: 0,
        callback(_, at) {
          return kind === "bars" ? short(told.labels[at], this.chart.width < 520 ? 14 : 36) : told.labels[at].slice(5);
        },
      },
    };
    const scales = {
      bars: () => ({ y: names, x: amounts({ grace: "2%" }) }),
      stack: () => ({ x: names, y: amounts({ stacked: true }) }),
      days: () => ({ x: names, y: amounts(), sum: amounts({ position: "right", grid: { display: false } }) }),
    };
    return {
      data: {
        labels: told.labels,
        datasets: told.series.map(({ label, draw, colour: number, cells }) => ({
          type: draw,
          label,
          data: cells.map((cell) => Number(cell.value)),
          ...(draw === "line"
            ? {
                yAxisID: "sum",
                order: 0,
                borderColor: colour.line,
                backgroundColor: colour.line,
                borderWidth: 2,
                pointRadius: cells.length > 1 ? 0 : 3,
                pointHitRadius: 8,
              }
            : {
                order: 1,
                backgroundColor: cells.map((_, at) => colour.series(told.others && at === cells.length - 1 ? "0" : number)),
                borderColor: colour.page,
                borderWidth: kind === "stack" && cells.length < 120 ? { top: 1 } : 0,
                borderSkipped: false,
                maxBarThickness: kind === "bars" ? 24 : 48,
                categoryPercentage: cells.length < 90 ? 0.86 : 1,
                barPercentage: 1,
              }),
        })),
      },
      options: {
        indexAxis: kind === "bars" ? "y" : "x",
        animation: false,
        responsive: !saved,
        maintainAspectRatio: false,
        ...(saved && { devicePixelRatio: 2 }),
        interaction: kind === "stack" ? { mode: "nearest", intersect: true } : { mode: "index", axis: kind === "bars" ? "y" : "x", intersect: false },
        layout: { padding: saved ? 16 : 0 },
        scales: scales[kind](),
        plugins: {
          title: { display: saved, text: figure.dataset.title, color: colour.text, align: "start", font: { size: 16 } },
          legend: { display: saved && kind !== "bars", position: "bottom", labels: { color: colour.text, boxWidth: 12 } },
          tooltip: {
            callbacks: {
              title: ([item]) => item && told.labels[item.dataIndex],
              // What the table says: a number of a script has fewer digits than an amount may have.
              label: (item) => `${short(item.dataset.label, 32)}: ${said(told.series[item.datasetIndex].cells[item.dataIndex])}`,
              footer: ([item]) => (kind === "stack" && item ? `total: ${said(total(told.rows[item.dataIndex]))}` : ""),
            },
          },
        },
      },
      plugins: [
        {
          id: "page",
          beforeDraw: ({ ctx, width, height }) => {
            ctx.save();
            ctx.fillStyle = colour.page;
            ctx.fillRect(0, 0, width, height);
            ctx.restore();
          },
        },
      ],
    };
  }

  const said = (cell) => cell.textContent.trim();
  const total = (row) => row.cells[row.cells.length - 1].querySelector("data");

  function draw(figure) {
    const told = read(document.getElementById(figure.dataset.table));
    const canvas = figure.querySelector("canvas");
    Chart.defaults.font.family = getComputedStyle(figure).fontFamily;
    figure.hidden = false;
    if (figure.dataset.chart === "bars") canvas.parentElement.style.height = `${50 + 30 * told.labels.length}px`;
    Chart.getChart(canvas)?.destroy();
    new Chart(canvas, settings(figure, told, false));
  }

  function save(figure) {
    const canvas = document.createElement("canvas");
    canvas.width = WIDE;
    canvas.height = Math.max(480, figure.querySelector("canvas").clientHeight + 90);
    const told = read(document.getElementById(figure.dataset.table));
    const chart = new Chart(canvas, settings(figure, told, true));
    canvas.toBlob((picture) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(picture);
      link.download = figure.dataset.file;
      link.click();
      chart.destroy();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    }, "image/png");
  }

  const figures = document.querySelectorAll("figure[data-chart]");
  const all = () => figures.forEach(draw);
  figures.forEach((figure) => figure.querySelector("button")?.addEventListener("click", () => save(figure)));
  dark.addEventListener("change", all);
  all();
})();
