"use strict";

const jobTable = document.querySelector("#job-table");
sortable(jobTable, () => {});

// Axes that are brushed: of each a stretch, in pixels from the top; a job is kept that passes through all of them.
const plot = document.querySelector("#parallel");
if (plot) {
  const [top, bottom] = [Number(plot.dataset.top), Number(plot.dataset.bottom)];
  const STEP = (bottom - top) / 40;
  const paths = [...plot.querySelectorAll(".lines path")];
  const pathOf = new Map(paths.map((path) => [path.dataset.job, path]));
  const rows = [...jobTable.tBodies[0].rows];
  const rowOf = new Map(rows.map((row) => [row.dataset.job, row]));
  const bestFirst = [...paths].reverse(); // heights on an axis are in this order
  const bar = document.querySelector("#brush");

  const svg = (name, attributes, parent) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  };
  const within = (y) => Math.min(bottom, Math.max(top, y));
  const digits = (value) => String(Number(value.toPrecision(3)));

  const makeAxis = (group) => {
    const x = Number(group.dataset.x);
    const heights = group.dataset.y.split(" ").map(Number);
    const ticks = [...group.querySelectorAll(".tick")].map((text) => [text.textContent, Number(text.getAttribute("y")) - 4]);
    const name = group.querySelector("title").textContent;
    const [low, high] = [group.dataset.low, group.dataset.high].map((text) => (text === "" ? null : Number(text)));
    const axis = { group, heights, from: top, to: bottom };

    axis.valueAt = (y) => {
      const share = (bottom - y) / (bottom - top);
      if (low === null) return ticks.reduce((a, b) => (Math.abs(b[1] - y) < Math.abs(a[1] - y) ? b : a))[0];
      return digits(group.dataset.logarithmic === "1" ? low * (high / low) ** share : low + share * (high - low));
    };
    axis.isBrushed = () => axis.from > top || axis.to < bottom;
    axis.keeps = (index) => heights[index] >= axis.from - 0.5 && heights[index] <= axis.to + 0.5;

    const grip = svg("rect", { class: "grip", x: x - 22, y: top - 6, width: 44, height: bottom - top + 12 }, group);
    const range = svg("rect", { class: "range", x: x - 7, width: 14, y: top, height: 0 }, group);
    const makeEnd = (which, label) => {
      const end = svg("g", { class: "end", role: "slider", tabindex: 0, "aria-orientation": "vertical" }, group);
      end.setAttribute("aria-label", `${name}: ${label} end of what is kept`);
      svg("rect", { x: x - 14, y: which === "from" ? -16 : 0, width: 28, height: 16 }, end);
      svg("path", { d: which === "from" ? `M${x - 8},-9h16l-8,9z` : `M${x - 8},9h16l-8,-9z` }, end);
      end.text = svg("text", { x: x + 12, y: which === "from" ? -2 : 10 }, end);
      const move = (y) => {
        axis[which] = which === "from" ? Math.min(within(y), axis.to) : Math.max(within(y), axis.from);
        update();
      };
      end.addEventListener("keydown", (event) => {
        const moves = { ArrowUp: -STEP, ArrowDown: STEP, PageUp: -5 * STEP, PageDown: 5 * STEP, Home: top - bottom, End: bottom - top };
        if (event.key === "Escape") axis.clear();
        else if (event.key in moves) move(axis[which] + moves[event.key]);
        else return;
        event.preventDefault();
      });
      drag(end, (y) => move(y));
      return end;
    };
    const ends = [makeEnd("from", "upper"), makeEnd("to", "lower")];

    axis.clear = () => { [axis.from, axis.to] = [top, bottom]; update(); };
    axis.draw = () => {
      group.classList.toggle("brushed", axis.isBrushed());
      range.setAttribute("y", axis.from);
      range.setAttribute("height", axis.isBrushed() ? axis.to - axis.from : 0);
      for (const [end, y] of [[ends[0], axis.from], [ends[1], axis.to]]) {
        end.setAttribute("transform", `translate(0,${y})`);
        end.setAttribute("aria-valuemin", 0);
        end.setAttribute("aria-valuemax", 100);
        end.setAttribute("aria-valuenow", Math.round((100 * (bottom - y)) / (bottom - top)));
        end.setAttribute("aria-valuetext", axis.valueAt(y));
        end.text.textContent = axis.valueAt(y);
      }
    };
    drag(grip, (y, start) => { [axis.from, axis.to] = [Math.min(y, start), Math.max(y, start)]; update(); });
    grip.addEventListener("click", () => { if (axis.to - axis.from < 4) axis.clear(); });
    return axis;
  };

  // Calls `moved` with where the pointer is and where it was pressed, both within the axis.
  function drag(element, moved) {
    const height = (event) => within(new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse()).y);
    let start = null;
    element.addEventListener("pointerdown", (event) => {
      start = height(event);
      element.setPointerCapture(event.pointerId);
      if (element.tabIndex < 0) event.preventDefault(); // else it takes the focus
    });
    element.addEventListener("pointermove", (event) => { if (start !== null) moved(height(event), start); });
    for (const over of ["pointerup", "pointercancel"]) element.addEventListener(over, () => { start = null; });
  }

  function update() {
    const brushed = axes.some((axis) => axis.isBrushed());
    let kept = 0;
    bestFirst.forEach((path, index) => {
      const keeps = axes.every((axis) => !axis.isBrushed() || axis.keeps(index));
      path.classList.toggle("off", !keeps);
      rowOf.get(path.dataset.job).hidden = !keeps;
      kept += keeps;
    });
    for (const row of rows) if (!pathOf.has(row.dataset.job)) row.hidden = brushed;
    for (const axis of axes) axis.draw();
    bar.hidden = !brushed;
    bar.querySelector("output").textContent = `${kept} of ${rows.length} jobs are kept, here and in the table`;
  }

  const axes = [...plot.querySelectorAll(".axis")].map(makeAxis);
  bar.querySelector("button").addEventListener("click", () => {
    for (const axis of axes) [axis.from, axis.to] = [top, bottom];
    update();
  });
  for (const [job, path] of pathOf) {
    const row = rowOf.get(job);
    for (const element of [path, row])
      for (const [event, on] of [["pointerenter", true], ["pointerleave", false]])
        element.addEventListener(event, () => { for (const one of [path, row]) one.classList.toggle("pointed", on); });
  }
  document.querySelector(".brush-help").hidden = false;
  update();
}
