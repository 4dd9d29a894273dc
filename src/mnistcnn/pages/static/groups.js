// Groups of runs: intervals, validation curves, error against the number of training images.

function groupCharts(id, charts) {
  const partById = (suffix) => byId(`${id}-${suffix}`);
  forestPlot(partById("forest"), charts.forest, {
    label: "test error",
    format: (value) => formatTick(value, true),
  });
  if (charts.curves.length) validationCurves(partById, charts.curves);
  if (charts.samples.length) errorsBySamples(partById, charts.samples);
}

function validationCurves(partById, groups) {
  const series = groups.map((group, index) => {
    const style = { name: group.name, colour: index, dash: dash(index), hidden: !group.visible };
    const thin = group.runs.map((points) => ({ ...style, points, thin: true }));
    return [...thin, { ...style, points: group.mean }];
  });
  const chart = {
    series: series.flat(),
    x: { label: "epoch", integer: true },
    y: { label: "validation error", percent: true, log: true },
  };
  const redraw = lineChart(partById("curves"), chart);
  const toggle = (index, shown) => {
    series[index].forEach((each) => (each.hidden = !shown));
    redraw();
  };
  const legend = partById("curves-legend");
  seriesControls(legend, series.map((lines) => lines[lines.length - 1]), toggle);
  const boxes = [...legend.querySelectorAll("input")];
  for (const [suffix, shown] of [["curves-all", true], ["curves-none", false]]) {
    partById(suffix).addEventListener("click", () => {
      boxes.forEach((box) => (box.checked = shown));
      chart.series.forEach((each) => (each.hidden = !shown));
      redraw();
    });
  }
  partById("curves-scale").addEventListener("change", (event) => {
    chart.y.log = event.target.value === "logarithmic";
    redraw();
  });
}

function errorsBySamples(partById, lines) {
  const chart = {
    series: lines.map((line, index) => ({
      name: line.name,
      points: line.points,
      colour: Math.floor(index / 2),
      dash: line.split === "training" ? "6 4" : "",
      open: line.split === "training",
    })),
    x: {
      label: "training images",
      log: true,
      ticks: [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b),
    },
    y: { label: "error", percent: true, log: true },
  };
  const redraw = lineChart(partById("samples"), chart);
  seriesControls(partById("samples-legend"), chart.series, (index, shown) => {
    chart.series[index].hidden = !shown;
    redraw();
  });
}

for (const [id, charts] of Object.entries(data.sections)) groupCharts(id, charts);
