"use strict";
// The table of claims: a click on a heading sorts it, text in the field above filters its rows.
document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".ledger")) {
    const table = box.querySelector("table");
    if (!table) continue;
    const body = table.tBodies[0];
    const rows = () => [...body.rows];
    const field = document.createElement("input");
    field.type = "search";
    field.placeholder = "filter, for example: fails";
    field.setAttribute("aria-label", "Filter the rows of the table");
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows()) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
    box.prepend(field);
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => {
        const up = cell.getAttribute("aria-sort") !== "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].textContent.trim();
        const order = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
        body.append(...rows().sort((a, b) => (up ? order(a, b) : order(b, a))));
      });
    });
  }
});
