"use strict";
// Walk the points of the Pareto plot by mouse, touch or arrow keys; the readout says what they are.
for (const area of document.querySelectorAll("[role=listbox]")) {
  const points = [...area.querySelectorAll("[role=option]")];
  const readout = area.closest("figure").querySelector(".readout");
  const tip = document.createElement("div");
  tip.setAttribute("aria-hidden", "true");
  tip.hidden = true;
  area.append(tip);
  let active = Number(area.dataset.active);
  const words = (index) => [...points[index].firstElementChild.childNodes].map((n) => n.cloneNode(true));
  const show = (index) => {
    points[active].classList.remove("active");
    active = Math.max(0, Math.min(points.length - 1, index));
    const point = points[active];
    point.classList.add("active");
    area.setAttribute("aria-activedescendant", point.id);
    readout.replaceChildren(...words(active));
    // Beside the point: its name and price, on the side where there is room.
    const [label, price] = [point.querySelector("b"), point.querySelector("data")];
    tip.textContent = label.textContent + " · " + price.textContent;
    tip.style.left = point.style.left;
    tip.style.bottom = point.style.bottom;
    const x = parseFloat(point.style.left);
    tip.className = x < 25 ? "tip right" : x > 75 ? "tip left" : "tip";
  };
  show(active);
  // The nearest point, so that nobody has to hit a dot of eight pixels.
  const nearest = (event) => {
    const far = points.map((point) => {
      const box = point.getBoundingClientRect();
      return Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
    });
    show(far.indexOf(Math.min(...far)));
    tip.hidden = false;
  };
  area.addEventListener("pointermove", nearest);
  area.addEventListener("pointerdown", nearest);
  area.addEventListener("pointerleave", () => { tip.hidden = document.activeElement !== area; });
  area.addEventListener("focus", () => { tip.hidden = false; });
  area.addEventListener("blur", () => { tip.hidden = true; });
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
      for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
      button.closest("th").setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a, column), y = value(b, column);
        return direction * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
      });
      body.replaceChildren(...rows);
    });
  });
}
