"use strict";

// Puts a button into each header of a table, which sorts it; a second press turns the order round. A cell without a value
// comes last either way. Returns the function that sorts, and calls `done` with whether it was a button that did.
function sortable(table, done) {
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const texts = new Intl.Collator(undefined, { numeric: true }).compare;

  const sort = (header, descending, byHand = false) => {
    const value = (row) => {
      const cell = row.cells[header.cellIndex];
      return cell.dataset.value ?? cell.textContent.trim();
    };
    const compare = header.dataset.kind === "number" ? (a, b) => a - b : texts;
    const rows = [...body.rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => (a === "" || b === "" ? (a === "") - (b === "") : descending ? compare(b, a) : compare(a, b)));
    body.append(...rows.map(([, row]) => row));
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    done(byHand);
  };

  for (const header of headers) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header, header.getAttribute("aria-sort") === "ascending", true));
    header.append(button);
  }
  return sort;
}
