// The search of the table of runs: words and settings such as aug=full, which must all match.

const indexTable = document.querySelector("table.index");

// Rows in the order of data.rows; a sort moves them.
const indexRows = [...(indexTable?.tBodies[0].rows ?? [])].map((node, index) => ({
  node,
  isRun: node.classList.contains("member") || /^(run|evaluation)$/.test(node.cells[0].textContent),
  isMember: node.classList.contains("member"),
  text: node.textContent.toLowerCase(),
  terms: data.rows[index],
}));

// A sweep with its runs, or another row alone.
const indexBlocks = [];
for (const row of indexRows) {
  if (row.isMember) indexBlocks[indexBlocks.length - 1].runs.push(row);
  else indexBlocks.push({ row, runs: [] });
}
for (const { row, runs } of indexBlocks) {
  const name = row.node.querySelector("a").textContent.toLowerCase();
  for (const run of runs) run.text += ` ${name}`;
}

const splitTerm = (term) => {
  const position = term.indexOf("=");
  return [term.slice(0, position), term.slice(position + 1)];
};
const searchTerms = data.terms.map((term) => term.toLowerCase());
const commonTerms = data.common.map((term) => term.toLowerCase());
const searchKeys = [...searchTerms, ...commonTerms].map((term) => splitTerm(term)[0]);

// Without a value, any value matches.
const valueMatches = (value, typed) =>
  typed === "" || value === typed || (value !== "" && Number(value) === Number(typed));

// Return a function that says whether a row matches a word of the search: a setting, if there is
// one of this name, otherwise any text. The last part of a name is enough: lr for optimizer.lr.
function rowMatcher(word) {
  const [typedKey, typedValue] = splitTerm(word);
  const exact = searchKeys.includes(typedKey); // epochs is not scheduler.epochs
  const keyMatches = (key) => key === typedKey || (!exact && key.endsWith(`.${typedKey}`));
  const isSetting = word.includes("=") && searchKeys.some(keyMatches);
  const matches = (term) => {
    if (!isSetting) return term.includes(word);
    const [key, value] = splitTerm(term);
    return keyMatches(key) && valueMatches(value, typedValue);
  };
  const hits = new Set();
  searchTerms.forEach((term, index) => matches(term) && hits.add(index));
  const matchesAllRuns = commonTerms.some(matches);
  return (row) =>
    (row.isRun && matchesAllRuns) ||
    row.terms.some((index) => hits.has(index)) ||
    (!isSetting && row.text.includes(word));
}

function setOpen(row, open) {
  const button = row.node.querySelector("button.unfold");
  if ((button.getAttribute("aria-expanded") === "true") !== open) button.click();
}

const openedBySearch = new Set();

function search(query) {
  const matchers = query.toLowerCase().split(/\s+/).filter(Boolean).map(rowMatcher);
  const matches = (row) => matchers.every((matcher) => matcher(row));
  let count = 0;
  for (const block of indexBlocks) {
    const { row, runs } = block;
    const found = runs.filter(matches);
    const shown = matches(row) ? runs : found; // a sweep that matches has all of its runs
    const isShown = new Set(shown);
    for (const run of runs) run.node.classList.toggle("unmatched", !isShown.has(run));
    row.node.classList.toggle("unmatched", !shown.length && !matches(row));
    count += runs.length ? shown.length : Number(row.isRun && matches(row));
    const isPartial = shown.length > 0 && shown.length < runs.length;
    if (isPartial && !openedBySearch.has(block)) {
      openedBySearch.add(block);
      setOpen(row, true);
    } else if (!isPartial && openedBySearch.delete(block)) {
      setOpen(row, false);
    }
  }
  const total = indexRows.filter((row) => row.isRun).length;
  byId("count").textContent =
    matchers.length ? `${count.toLocaleString("en")} of ${total.toLocaleString("en")} runs` : "";
}

if (indexTable) {
  const box = byId("search");
  box.addEventListener("input", () => search(box.value));
  addEventListener("pageshow", () => search(box.value)); // a reload keeps the text of the box
}
