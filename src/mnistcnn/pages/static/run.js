// The page of a run: curves, confusion matrix, errors, embedding.

const name = (label) => data.classes[label];

const images = data.images.index.map((index, position) => ({
  position,
  index,
  label: data.images.label[position],
  predicted: data.images.predicted[position],
  confidence: data.images.confidence[position],
  truth: data.images.truth[position],
}));
const isWrong = (image) => image.label !== image.predicted;
const knownErrors = new Set(data.label_errors);
const byConfidence = (a, b) => b.confidence - a.confidence || a.index - b.index;
// more images are in the page for the embedding
const errors = images.filter(isWrong).sort(byConfidence).slice(0, data.max_errors);

function describe(image) {
  const result = isWrong(image) ? `true ${name(image.label)}, predicted ${name(image.predicted)}` : name(image.label);
  return `test image ${image.index}: ${result}`;
}

function probability(value) {
  const text = formatProbability(value);
  return text.startsWith(">") ? `p ${text}` : `p = ${text}`;
}

function imageCard(image) {
  const wrong = isWrong(image);
  const labels = element("div", {}, element("strong", {}, name(image.label)));
  if (wrong) labels.append(" → ", element("strong", { class: "wrong" }, name(image.predicted)));
  const content = [
    tile(image.position, 84, describe(image)),
    labels,
    element("div", {}, probability(image.confidence)),
    wrong ? element("div", { class: "muted" }, `true: ${formatProbability(image.truth)}`) : null,
    element("div", { class: "muted" }, `image ${image.index}`),
    knownErrors.has(image.index) ? element("span", { class: "badge" }, "label error") : null,
  ];
  return content.filter((each) => each !== null);
}

// Curves -------------------------------------------------------------------------------------------

function curves() {
  for (const [key, percent] of [["loss", false], ["accuracy", true]]) {
    const points = (column) => data.history.map((row) => [row.epoch, row[column]]);
    const chart = {
      series: [
        { name: "training", points: points(`train_${key}`), colour: 6 },
        { name: "training (running average)", points: points(`train_${key}_running`), colour: 6, dash: "6 4", open: true },
        { name: "validation", points: points(`val_${key}`), colour: 0 },
      ],
      x: { label: "epoch", integer: true },
      y: { label: percent ? "accuracy" : "loss (nats)", percent },
      marks: [{ x: data.best_epoch, label: `best epoch: ${data.best_epoch}` }],
    };
    const redraw = lineChart(byId(key), chart);
    const legend = chart.series.map((each) => element("li", {}, swatch(each), each.name));
    byId("curves-legend").replaceChildren(...legend); // the same for both
    const select = byId(`${key}-scale`);
    // on a logarithmic axis, the error shows differences between accuracies close to 1
    select.addEventListener("change", () => {
      chart.y.log = select.value === "logarithmic";
      const error = chart.y.log && percent;
      chart.y.label = error ? "error" : percent ? "accuracy" : "loss (nats)";
      const columns = [`train_${key}`, `train_${key}_running`, `val_${key}`];
      chart.series.forEach((series, index) => {
        series.points = points(columns[index]).map(([x, y]) => [x, error ? 1 - y : y]);
      });
      redraw();
    });
  }
}

// Confusion matrix ---------------------------------------------------------------------------------

function confusionMatrix() {
  const buttons = [...document.querySelectorAll("table.confusion button")];
  for (const button of buttons) {
    const [label, predicted] = [Number(button.dataset.label), Number(button.dataset.predicted)];
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      const isCell = (image) => image.label === label && image.predicted === predicted;
      const correct = label === predicted;
      const shown = correct
        ? images.filter(isCell).sort(byConfidence).slice(0, data.max_correct)
        : errors.filter(isCell);
      const count = Number(button.dataset.count);
      const what = correct ? `${name(label)}, predicted correctly` : `${name(label)}, predicted as ${name(predicted)}`;
      const limit = `none of them among the ${data.max_errors} most confident errors`;
      const part = !shown.length ? ` (${count}, ${limit})` : shown.length < count ? ` (the ${shown.length} most confident of ${count})` : ` (${count})`;
      byId("cell-heading").textContent = what + part;
      imageList(byId("cell-images"), shown, imageCard);
    });
  }
}

// Errors -------------------------------------------------------------------------------------------

function errorGallery() {
  const [label, predicted, order, knownOnly] = ["error-label", "error-predicted", "error-order", "error-known"].map(byId);
  const update = () => {
    const shown = errors.filter(
      (image) =>
        (label.value === "" || image.label === Number(label.value)) &&
        (predicted.value === "" || image.predicted === Number(predicted.value)) &&
        !(knownOnly?.checked && !knownErrors.has(image.index)),
    );
    shown.sort((a, b) => (order.value === "most" ? 1 : -1) * byConfidence(a, b));
    byId("error-count").textContent = `${shown.length} of ${errors.length}`;
    imageList(byId("error-images"), shown, imageCard);
  };
  [label, predicted, order, knownOnly].forEach((control) => control?.addEventListener("change", update));
  update();
}

// Embedding ----------------------------------------------------------------------------------------

const EMBEDDING_SIZE = 700;
const EMBEDDING_MARGIN = 12;

function embedding() {
  const { image: positions, x, y, neighbours } = data.embedding;
  const container = byId("embedding");
  const svg = document.createElementNS(SVG, "svg");
  const inner = EMBEDDING_SIZE - 2 * EMBEDDING_MARGIN;
  const at = (value) => EMBEDDING_MARGIN + (inner * value) / data.embedding.range;
  const height = at(Math.max(...y)) + EMBEDDING_MARGIN;
  svg.setAttribute("viewBox", `0 0 ${EMBEDDING_SIZE} ${height}`);
  container.append(svg);
  const points = positions.map((position, point) => ({
    image: images[position],
    x: at(x[point]),
    y: height - at(y[point]),
    neighbours: neighbours[point],
  }));
  const radius = points.length > 1500 ? 3 : 4;
  const circles = points.map((point) => shape(svg, "circle", { cx: point.x, cy: point.y, r: radius }));
  points.forEach((point, index) => isWrong(point.image) && circles[index].classList.add("wrong"));
  labelClasses(svg, points);
  const lines = shape(svg, "g");
  colourPoints(points, circles);
  byId("embedding-errors").addEventListener("change", (event) => {
    container.classList.toggle("errors", event.target.checked);
  });
  selectPoints(container, svg, points, lines);
}

function colourPoints(points, circles) {
  const radios = document.querySelectorAll("input[name=embedding-colour]");
  const update = () => {
    const key = [...radios].find((radio) => radio.checked).value;
    points.forEach((point, index) => (circles[index].style.fill = colour(point.image[key])));
  };
  radios.forEach((radio) => radio.addEventListener("change", update));
  update();
}

// Write the name of each class at the median of its points.
function labelClasses(svg, points) {
  const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  data.classes.forEach((text, label) => {
    const members = points.filter((point) => point.image.label === label);
    if (!members.length) return;
    const [x, y] = [median(members.map((each) => each.x)), median(members.map((each) => each.y))];
    shape(svg, "text", { x, y: y + 7, "text-anchor": "middle" }, text.slice(0, 24));
  });
}

// The cursor shows a point's image, and so do the arrow keys, in the order of the test set; a click or
// Enter shows its neighbours.
function selectPoints(container, svg, points, lines) {
  let current = null;
  const show = (index) => {
    current = index;
    const point = points[index];
    const scale = svg.getBoundingClientRect().width / EMBEDDING_SIZE;
    const picture = tile(point.image.position, 56, describe(point.image));
    showTooltip(container, point.x * scale, point.y * scale, picture, element("div", {}, describe(point.image)));
  };
  const select = () => current !== null && showNeighbours(points, current, lines);
  const nearest = (event) => {
    const [px, py] = pointerPosition(svg, event);
    const distances = points.map((point) => (point.x - px) ** 2 + (point.y - py) ** 2);
    const least = smallest(distances);
    return least < 30 ** 2 ? distances.indexOf(least) : null;
  };
  svg.addEventListener("mousemove", (event) => {
    const index = nearest(event);
    if (index === null) hideTooltip(container);
    else show(index);
  });
  svg.addEventListener("click", (event) => {
    const index = nearest(event);
    if (index === null) return;
    show(index);
    select();
  });
  for (const event of ["mouseleave", "blur"]) {
    container.addEventListener(event, () => hideTooltip(container));
  }
  addEventListener("resize", () => hideTooltip(container));
  container.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTooltip(container);
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (hasModifier(event) || (!step && event.key !== "Enter")) return;
    event.preventDefault();
    if (event.key === "Enter") return select();
    show(current === null ? 0 : (current + step + points.length) % points.length);
    announce(container);
  });
}

function showNeighbours(points, index, lines) {
  const point = points[index];
  lines.replaceChildren();
  for (const each of point.neighbours) {
    const other = points[each];
    const line = shape(lines, "line", { x1: point.x, y1: point.y, x2: other.x, y2: other.y });
    line.style.stroke = "var(--text)";
    line.style.strokeOpacity = 0.5;
    ring(lines, other, 6, 1.5);
  }
  ring(lines, point, 9, 3);
  byId("neighbour-heading").textContent = `The nearest neighbours of ${describe(point.image)}`;
  const shown = [point, ...point.neighbours.map((each) => points[each])].map((each) => each.image);
  imageList(byId("neighbour-images"), shown, imageCard);
}

function ring(parent, point, radius, width) {
  const node = shape(parent, "circle", { cx: point.x, cy: point.y, r: radius });
  node.style.stroke = "var(--text)";
  node.style.strokeWidth = width;
  node.style.fill = "none";
}

if (data.history.length) curves();
confusionMatrix();
if (byId("error-images")) errorGallery();
if (data.embedding) embedding();
