// The page of a comparison: differences between pairs, and the images on which groups disagree.

// Percentage points with their sign; zero is never -0.000.
function formatPoints(value) {
  const points = Number((100 * value).toFixed(3)) + 0;
  return (points < 0 ? "" : "+") + points.toFixed(3);
}

function differences() {
  const rows = data.differences.map((row) => ({ ...row, points: row.seeds.map((each) => each[1]) }));
  forestPlot(byId("differences"), rows, {
    label: "difference of the test error, points",
    format: (value) => formatTick(100 * value, false),
    zero: true,
  });
  const body = byId("seed-table")?.tBodies[0];
  for (const row of data.differences) {
    for (const [seed, value] of row.seeds) {
      const cells = [element("td", {}, row.name), element("td", { class: "number" }, String(seed))];
      const points = element("td", { class: "number", "data-value": 100 * value }, formatPoints(value));
      body.append(element("tr", {}, ...cells, points));
    }
  }
}

function disagreements() {
  const [pair, side] = ["pair", "correct-side"].map(byId);
  const name = (label) => data.classes[label];
  const correctSide = (image) => ["a", "b"].find((_, index) => image.predicted[index] === image.label) ?? "none";
  const card = (image) => [
    tile(image.position, 84, `test image ${image.index}: true ${name(image.label)}`),
    element("div", {}, "true ", element("strong", {}, name(image.label))),
    ...["baseline", "change"].map((text, index) => {
      const result = image.predicted[index] === image.label ? "correct" : "wrong";
      const predicted = element("strong", { class: result }, name(image.predicted[index]));
      return element("div", {}, `${text} `, predicted, ` ${formatProbability(image.probability[index])}`);
    }),
    element("div", { class: "muted" }, `image ${image.index}`),
  ];
  const update = () => {
    const { images: all, total } = data.disagreements[Number(pair.value)];
    const shown = all.filter((image) => !side.value || correctSide(image) === side.value);
    const which = total > all.length ? ` images with the largest differences, of ${total} in all` : "";
    byId("image-count").textContent = `${shown.length} of ${all.length}${which}`;
    imageList(byId("disagreements"), shown, card);
  };
  [pair, side].forEach((control) => control.addEventListener("change", update));
  update();
}

differences();
if (byId("disagreements")) disagreements();
