// Charts in SVG: lines, with the values under the cursor or the arrow keys, and forest plots.

const SVG = "http://www.w3.org/2000/svg";

function shape(parent, name, attributes = {}, text = null) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}

const colour = (index) => `var(--c${index % 10})`;
const DASHES = ["", "6 4", "2 3"];
const dash = (index) => DASHES[Math.floor(index / 10) % DASHES.length];

// Numbers ------------------------------------------------------------------------------------------

function formatNumber(value) {
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function formatPercent(value) {
  return `${(100 * value).toFixed(2)}%`;
}

// A probability with three decimals, never rounded up to 1.
function formatProbability(value) {
  return value < 0.9995 ? value.toFixed(3) : "> 0.999";
}

function formatTick(value, percent) {
  const text = String(Number((percent ? 100 * value : value).toPrecision(6)));
  return percent ? `${text}%` : Number(text).toLocaleString("en", { maximumFractionDigits: 8 });
}

// Scales -------------------------------------------------------------------------------------------

function linearTicks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  if (!(raw > 1e-9 * Math.max(Math.abs(low), Math.abs(high)))) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw * 0.999);
  const ticks = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index++) {
    ticks.push(index * step);
  }
  return ticks;
}

function logTicks(low, high, count) {
  for (const digits of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const digit of digits) {
        const tick = digit * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    }
    if (ticks.length <= count * 1.5) return ticks.length < 2 ? linearTicks(low, high, count) : ticks;
  }
  return linearTicks(low, high, count);
}

// Math.min(...values) has a limit of some 100,000 values.
const smallest = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);

// A function from values to pixels, with its ticks. Zero on a logarithmic scale is at its low end.
function makeScale({ log, integer }, values, first, last, count) {
  const finite = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  let low = finite.length ? smallest(finite) : log ? 0.001 : 0;
  let high = finite.length ? -smallest(finite.map((value) => -value)) : 1;
  // values that differ only by rounding
  const equal = high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high));
  if (log) {
    if (equal) [low, high] = [low / 2, high * 2];
    const margin = (high / low) ** 0.04;
    [low, high] = [low / margin, high * margin];
    const span = Math.log(high / low);
    const scale = (value) => first + ((last - first) * Math.log(Math.max(value, low) / low)) / span;
    return Object.assign(scale, { ticks: logTicks(low, high, count), low, high });
  }
  if (equal) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const margin = (integer ? 0.025 : 0.04) * (high - low);
  const bottom = low >= 0 && low - margin < 0 ? 0 : low - margin;
  [low, high] = [integer ? low - margin : bottom, high + margin];
  let ticks = linearTicks(low, high, count);
  if (integer) ticks = ticks.filter(Number.isInteger);
  const scale = (value) => first + ((last - first) * (value - low)) / (high - low);
  return Object.assign(scale, { ticks, low, high });
}

// The frame of a chart -----------------------------------------------------------------------------

// Draw when the element gets a width, and again when it changes.
function drawAtEachWidth(container, draw) {
  let width = 0;
  const update = () => {
    const current = Math.round(container.clientWidth);
    if (current && current !== width) draw((width = current));
  };
  new ResizeObserver(update).observe(container);
  update();
  return () => draw(width || Math.round(container.clientWidth) || 640);
}

function clearChart(container) {
  container.querySelectorAll("svg, .tooltip").forEach((node) => node.remove());
}

function showTooltip(container, x, y, ...content) {
  let tooltip = container.querySelector(".tooltip");
  if (!tooltip) {
    tooltip = element("div", { class: "tooltip", "aria-hidden": "true" });
    container.append(tooltip);
  }
  tooltip.replaceChildren(...content);
  tooltip.hidden = false;
  const left = x + 14 + tooltip.offsetWidth > container.clientWidth ? x - 14 - tooltip.offsetWidth : x + 14;
  tooltip.style.left = `${Math.max(0, Math.min(left, container.clientWidth - tooltip.offsetWidth))}px`;
  tooltip.style.top = `${Math.max(0, y - tooltip.offsetHeight - 10)}px`;
}

// For screen readers, after a key was pressed: those of the cursor would be too many.
function announce(container) {
  let status = container.querySelector("p[role=status]");
  if (!status) {
    status = element("p", { class: "visually-hidden", role: "status" });
    container.append(status);
  }
  const tooltip = container.querySelector(".tooltip");
  status.textContent = tooltip && !tooltip.hidden ? tooltip.innerText : "";
}

const hasModifier = (event) => event.altKey || event.ctrlKey || event.metaKey;

function hideTooltip(container) {
  const tooltip = container.querySelector(".tooltip");
  if (tooltip) tooltip.hidden = true;
}

// The position of a mouse event in units of the SVG.
function pointerPosition(svg, event) {
  const box = svg.getBoundingClientRect();
  const factor = svg.viewBox.baseVal.width / box.width;
  return [(event.clientX - box.left) * factor, (event.clientY - box.top) * factor];
}

// A short line in the style of a series.
function swatch({ colour: index, dash: pattern }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("viewBox", "0 0 22 10");
  svg.setAttribute("aria-hidden", "true");
  const line = shape(svg, "line", { x1: 1, x2: 21, y1: 5, y2: 5, "stroke-width": 3 });
  line.style.stroke = colour(index);
  line.style.strokeDasharray = pattern ?? "";
  return svg;
}

// Line charts --------------------------------------------------------------------------------------

// options: series [{name, points [[x, y] or [x, y, low, high]], colour, dash, thin, hidden, open}],
// x and y {label, log, integer, percent, ticks}, marks [{x, label}]. Returns a function that draws
// again after a change of the options.
function lineChart(container, options) {
  const state = { position: null };
  const redraw = drawAtEachWidth(container, (width) => drawLines(container, options, width, state));
  container.addEventListener("keydown", (event) => {
    if (event.key === "Escape") state.hide?.();
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || hasModifier(event) || !state.values?.length) return;
    event.preventDefault();
    const last = state.values.length - 1;
    const next = state.position === null ? (step > 0 ? 0 : last) : state.position + step;
    state.show(Math.max(0, Math.min(last, next)));
    announce(container);
  });
  const hide = () => state.hide?.();
  container.addEventListener("mouseleave", hide);
  container.addEventListener("blur", hide);
  return redraw;
}

function drawLines(container, options, width, state) {
  clearChart(container);
  const height = Math.max(240, Math.min(360, width * 0.6));
  const margin = { left: leftMargin(options), right: 16, top: 22, bottom: 42 };
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  container.prepend(svg);
  const shown = options.series.filter((each) => !each.hidden && each.points.length);
  const points = shown.flatMap((each) => each.points);
  const [right, bottom] = [width - margin.right, height - margin.bottom];
  const x = makeScale(options.x, points.map((point) => point[0]), margin.left, right, width / 90);
  const y = makeScale(options.y, points.flatMap((point) => point.slice(1)), bottom, margin.top, height / 50);
  drawAxes(svg, options, x, y, { ...margin, right, bottom, height });
  for (const mark of options.marks ?? []) {
    shape(svg, "line", { class: "mark", x1: x(mark.x), x2: x(mark.x), y1: margin.top, y2: bottom });
    const anchor = x(mark.x) > width / 2 ? "end" : "start";
    const shift = anchor === "end" ? -5 : 5;
    shape(svg, "text", { x: x(mark.x) + shift, y: margin.top + 2, "text-anchor": anchor }, mark.label);
  }
  shown.forEach((each) => drawSeries(svg, each, x, y));
  addCursor(container, svg, options, shown.filter((each) => !each.thin), x, y, margin.top, bottom, state);
}

// Leave space for the longest tick of the y axis.
function leftMargin(options) {
  const values = options.series.flatMap((each) => each.points.map((point) => point[1]));
  const lengths = makeScale(options.y, values, 1, 0, 5).ticks.map((tick) => formatTick(tick, options.y.percent).length);
  return 20 + 7 * Math.max(4, ...lengths);
}

function drawAxes(svg, options, x, y, frame) {
  const axes = shape(svg, "g", { class: "axis" });
  for (const tick of y.ticks) {
    shape(axes, "line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) });
    const text = formatTick(tick, options.y.percent);
    shape(axes, "text", { x: frame.left - 8, y: y(tick) + 4, "text-anchor": "end" }, text);
  }
  let previous = -Infinity;
  for (const tick of options.x.ticks ?? x.ticks) {
    if (x(tick) - previous < 48) continue;
    previous = x(tick);
    shape(axes, "line", { class: "grid", x1: x(tick), x2: x(tick), y1: frame.top, y2: frame.bottom });
    const attributes = { x: x(tick), y: frame.bottom + 18, "text-anchor": "middle" };
    shape(axes, "text", attributes, formatTick(tick, options.x.percent));
  }
  const middle = (frame.left + frame.right) / 2;
  shape(axes, "text", { x: middle, y: frame.height - 4, "text-anchor": "middle" }, options.x.label);
  shape(axes, "text", { x: 0, y: 11 }, options.y.label);
}

function drawSeries(svg, series, x, y) {
  const stroke = colour(series.colour);
  const path = series.points.map((point, index) => `${index ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`);
  const line = shape(svg, "path", { d: path.join(""), fill: "none", "stroke-width": series.thin ? 0.8 : 2 });
  line.style.stroke = stroke;
  if (series.thin) line.style.opacity = 0.5;
  line.style.strokeDasharray = series.dash ?? "";
  if (series.thin && series.points.length > 1) return;
  for (const [px, py, low, high] of series.points) {
    if (low != null && low < high) {
      const bar = shape(svg, "path", { d: `M${x(px)} ${y(low)}V${y(high)}M${x(px) - 4} ${y(low)}h8M${x(px) - 4} ${y(high)}h8` });
      bar.style.stroke = stroke;
    }
    if (series.points.length <= 40) {
      const dot = shape(svg, "circle", { cx: x(px), cy: y(py), r: 3 });
      dot.style.stroke = stroke;
      dot.style.fill = series.open ? "var(--background)" : stroke;
    }
  }
}

const MAX_READINGS = 14; // lines in a tooltip

// Show the values of all lines at the position nearest to the cursor.
function addCursor(container, svg, options, series, x, y, top, bottom, state) {
  const values = [...new Set(series.flatMap((each) => each.points.map((point) => point[0])))];
  state.values = values.sort((a, b) => a - b);
  state.position = null;
  const cursor = shape(svg, "line", { class: "cursor", y1: top, y2: bottom, visibility: "hidden" });
  state.hide = () => {
    state.position = null;
    cursor.setAttribute("visibility", "hidden");
    hideTooltip(container);
  };
  state.show = (position) => {
    state.position = position;
    const value = state.values[position];
    for (const name of ["x1", "x2"]) cursor.setAttribute(name, x(value));
    cursor.setAttribute("visibility", "visible");
    const rows = [];
    for (const each of series) {
      const point = each.points.find((candidate) => candidate[0] === value);
      if (point) rows.push([each, point]);
    }
    const format = options.y.percent ? formatPercent : formatNumber;
    const body = rows.slice(0, MAX_READINGS).map(([each, point]) => {
      let text = format(point[1]);
      if (point[2] != null && point[2] < point[3]) text += ` (${format(point[2])} to ${format(point[3])})`;
      return element("tr", {}, element("td", {}, swatch(each), each.name), element("td", {}, text));
    });
    const heading = element("strong", {}, `${options.x.label} ${formatTick(value, options.x.percent)}`);
    const more = rows.length > MAX_READINGS ? element("div", {}, `and ${rows.length - MAX_READINGS} more`) : null;
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const table = element("table", {}, element("tbody", {}, ...body));
    const content = [heading, table, more].filter((each) => each !== null);
    const level = rows.length ? y(rows[0][1][1]) : top;
    showTooltip(container, x(value) * scale, Math.max(level, top) * scale, ...content);
  };
  svg.addEventListener("mousemove", (event) => {
    if (!state.values.length) return;
    const [px] = pointerPosition(svg, event);
    const distances = state.values.map((value) => Math.abs(x(value) - px));
    state.show(distances.indexOf(smallest(distances)));
  });
}

// A list of check boxes that switch the lines of a chart on and off.
function seriesControls(list, series, toggle) {
  series.forEach((each, index) => {
    const options = { type: "checkbox", checked: !each.hidden, autocomplete: "off" };
    const box = element("input", { ...options, onchange: () => toggle(index, box.checked) });
    list.append(element("li", {}, element("label", {}, box, swatch(each), each.name)));
  });
}

// Forest plots -------------------------------------------------------------------------------------

// rows: [{name, value, low, high, points, text}]; value, low and high may be null. The text of a row
// is shown beside it. options: {label, format (of a tick), zero (whether to draw a line at 0)}.
function forestPlot(container, rows, options) {
  return drawAtEachWidth(container, (width) => drawForest(container, rows, options, width));
}

function drawForest(container, rows, options, width) {
  clearChart(container);
  const longest = Math.max(...rows.map((row) => row.name.length));
  const beside = [Math.min(width * 0.35, 24 + 6.7 * longest), 24 + 6.7 * Math.max(...rows.map((row) => row.text.length))];
  const narrow = width - beside[0] - beside[1] < 240;
  const rowHeight = narrow ? 46 : 28;
  const [top, bottom] = [8, 40];
  const height = top + bottom + rows.length * rowHeight;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  container.prepend(svg);
  const left = narrow ? 12 : beside[0];
  const right = narrow ? width - 12 : width - beside[1];
  const values = rows.flatMap((row) => [row.value, row.low, row.high, ...(row.points ?? [])]);
  if (options.zero) values.push(0);
  const x = makeScale({}, values.filter((value) => value != null), left, right, (right - left) / 80);
  const axes = shape(svg, "g", { class: "axis" });
  const base = height - bottom;
  for (const tick of x.ticks) {
    shape(axes, "line", { class: "grid", x1: x(tick), x2: x(tick), y1: top, y2: base });
    shape(axes, "text", { x: x(tick), y: base + 16, "text-anchor": "middle" }, options.format(tick));
  }
  shape(axes, "text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, options.label);
  if (options.zero) shape(svg, "line", { class: "cursor", x1: x(0), x2: x(0), y1: top, y2: base });
  rows.forEach((row, index) => {
    const group = shape(svg, "g");
    shape(group, "title", {}, `${row.name}: ${row.text}`);
    const y = top + index * rowHeight + (narrow ? 32 : rowHeight / 2);
    shape(group, "rect", { x: 0, y: top + index * rowHeight, width, height: rowHeight, fill: "transparent" });
    const name = row.name.length > 60 ? `${row.name.slice(0, 59)}…` : row.name;
    if (narrow) shape(group, "text", { x: 2, y: y - 16 }, fitText(`${name}: ${row.text}`, width));
    else {
      shape(group, "text", { x: left - 12, y: y + 4, "text-anchor": "end" }, fitText(name, left - 12));
      shape(group, "text", { x: right + 12, y: y + 4 }, row.text);
    }
    drawInterval(group, row, x, y);
  });
}

// Shorten a text to a width in pixels, for letters of average width.
function fitText(text, width) {
  const count = Math.max(4, Math.floor(width / 6.4));
  return text.length > count ? `${text.slice(0, count - 1)}…` : text;
}

function drawInterval(group, row, x, y) {
  const stroke = colour(0);
  for (const point of row.points ?? []) {
    const dot = shape(group, "circle", { cx: x(point), cy: y, r: 2.5, opacity: 0.55 });
    dot.style.fill = stroke;
  }
  if (row.low != null && row.high != null) {
    const line = shape(group, "path", { d: `M${x(row.low)} ${y}H${x(row.high)}M${x(row.low)} ${y - 5}v10M${x(row.high)} ${y - 5}v10`, "stroke-width": 1.5, fill: "none" });
    line.style.stroke = stroke;
  }
  if (row.value != null) {
    const mark = shape(group, "rect", { x: x(row.value) - 4, y: y - 4, width: 8, height: 8 });
    mark.style.fill = stroke;
  }
}
