// Tables whose columns sort, rows that unfold, and buttons that copy a command.

// Sort by a click on a header. The rows of a group (class "member") stay below its row.
function sortableTable(table) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    if (cell.classList.contains("unsorted")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const descending = cell.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const blocks = [];
      for (const row of body.rows) {
        if (row.classList.contains("member")) blocks[blocks.length - 1].push(row);
        else blocks.push([row]);
      }
      blocks.sort((a, b) => compareCells(a[0].cells[column], b[0].cells[column], descending));
      body.append(...blocks.flat());
    });
  });
}

// Numbers by value, other cells as text; empty cells are last in both orders.
function compareCells(a, b, descending) {
  const [first, second] = [a, b].map((cell) => cell.dataset.value ?? cell.textContent.trim());
  if (!first || !second) return (first ? 0 : 1) - (second ? 0 : 1);
  const [x, y] = [Number(first), Number(second)];
  const order =
    Number.isNaN(x) || Number.isNaN(y)
      ? first.localeCompare(second, "en", { numeric: true })
      : x - y;
  return descending ? -order : order;
}

function unfoldingRows(table) {
  for (const button of table.querySelectorAll("button.unfold")) {
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "▾" : "▸";
      let row = button.closest("tr").nextElementSibling;
      for (; row?.classList.contains("member"); row = row.nextElementSibling) row.hidden = !open;
    });
  }
}

function copyButtons() {
  for (const button of document.querySelectorAll("button.copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 2000);
      } catch {
        getSelection().selectAllChildren(code); // to copy by hand
      }
    });
  }
}

document.querySelectorAll("table.sortable").forEach(sortableTable);
document.querySelectorAll("table").forEach(unfoldingRows);
copyButtons();
