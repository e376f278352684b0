"use strict";

// The captions of one validation at a time.
const time = document.querySelector("#time");
if (time) {
  const [slider, output] = [time.querySelector("input"), time.querySelector("output")];
  const labels = [...time.querySelectorAll("option")].map((option) => option.label);
  const show = () => {
    for (const said of document.querySelectorAll(".said"))
      [...said.children].forEach((caption, index) => { caption.hidden = index !== slider.valueAsNumber; });
    output.textContent = labels[slider.valueAsNumber];
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  slider.addEventListener("input", show);
  time.hidden = false;
  show();
}

// The table of captions: sorted by any column, filtered by text and by a choice, some rows at a time.
const table = document.querySelector("#caption-table");
if (table) {
  const AT_ONCE = 50;
  const controls = document.querySelector("#table-controls");
  const more = document.querySelector("#more");
  const filter = document.querySelector("#filter");
  const buttons = [...controls.querySelectorAll("button")];
  const body = table.tBodies[0];
  const fitting = { wrong: (row) => row.dataset.exact === "0", empty: (row) => row.dataset.words === "0" };
  let [choice, limit] = ["all", AT_ONCE];

  const update = () => {
    const text = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of body.rows) {
      const fits = (fitting[choice]?.(row) ?? true) && row.textContent.toLowerCase().includes(text);
      row.hidden = !fits || count >= limit;
      count += fits;
    }
    document.querySelector("#count").textContent = `${Math.min(count, limit)} of ${count} shown`;
    more.hidden = count <= limit;
    for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.choice === choice);
  };

  const sort = sortable(table, (byHand) => {
    if (byHand && (choice === "worst" || choice === "best")) choice = "all";
    update();
  });
  for (const button of buttons)
    button.addEventListener("click", () => {
      [choice, limit] = [button.dataset.choice, AT_ONCE];
      const wer = [...table.tHead.rows[0].cells].find((header) => header.textContent === "WER");
      if (choice === "worst" || choice === "best") sort(wer, choice === "worst");
      else update();
    });
  filter.addEventListener("input", () => { limit = AT_ONCE; update(); });
  more.firstChild.addEventListener("click", () => { limit += AT_ONCE; update(); });
  controls.hidden = false;
  update();
}
