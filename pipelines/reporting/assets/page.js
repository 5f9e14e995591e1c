"use strict";
// Walk the points of the Pareto plot by mouse, touch or arrow keys; the readout says what they are.
for (const area of document.querySelectorAll("[role=listbox]")) {
  const points = [...area.querySelectorAll("[role=option]")];
  const readout = area.closest("figure").querySelector(".readout");
  let active = Number(area.dataset.active);
  const show = (index) => {
    points[active].classList.remove("active");
    active = Math.max(0, Math.min(points.length - 1, index));
    points[active].classList.add("active");
    area.setAttribute("aria-activedescendant", points[active].id);
    readout.replaceChildren(...[...points[active].firstElementChild.childNodes].map((n) => n.cloneNode(true)));
  };
  show(active);
  points.forEach((point, index) => {
    point.addEventListener("mouseenter", () => show(index));
    point.addEventListener("click", () => show(index));
  });
  const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  area.addEventListener("keydown", (event) => {
    if (event.key in moves) show(active + moves[event.key]);
    else if (event.key === "Home") show(0);
    else if (event.key === "End") show(points.length - 1);
    else return;
    event.preventDefault();
  });
}
// Sort a table by the column whose head is activated; numbers by their exact value.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    const exact = cell.querySelector("data");
    return exact ? Number(exact.value) : cell.textContent;
  };
  table.querySelectorAll("thead button").forEach((button, column) => {
    let direction = -1;
    button.addEventListener("click", () => {
      direction = -direction;
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a, column), y = value(b, column);
        return direction * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
      });
      body.replaceChildren(...rows);
    });
  });
}
