"use strict";
// Opens what a link leads into, sorts tables by a column, copies code, and leads from a neuron to its sounds.
(() => {
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.localName === "details") at.open = true;
    target?.scrollIntoView();
  };
  addEventListener("hashchange", open);

  const button = (name, text) => {
    const made = document.createElement("button");
    made.type = "button";
    made.className = name;
    made.append(...text);
    return made;
  };
  const compare = (a, b) => {
    const [p, q] = [a, b].map(text => parseFloat(text.replace(/[,<]/g, "")));
    return isNaN(p) || isNaN(q) ? a.localeCompare(b) : p - q;
  };
  const sort = head => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const body = head.closest("table").tBodies[0];
    const text = row => row.cells[head.cellIndex].textContent.trim();
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort((a, b) => up ? compare(text(a), text(b)) : compare(text(b), text(a))));
  };
  const copy = async made => {
    const text = made.nextElementSibling;
    try {
      await navigator.clipboard.writeText(text.innerText);
      made.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      made.textContent = "Selected: press Ctrl C";
    }
  };
  addEventListener("click", event => {
    const at = event.target.closest("thead button, .copy, a[href^='#']");
    if (at?.matches(".copy")) copy(at);
    else if (at?.matches("button")) sort(at.closest("th"));
    else if (at) setTimeout(open);
  });
  addEventListener("toggle", ({ target }) => {
    if (target.open) for (const text of target.querySelectorAll(":scope > .highlight, :scope > .copied"))
      if (!text.previousElementSibling.matches(".copy")) text.before(button("copy", ["Copy"]));
  }, true);

  // a row of neurons has the id that cells of heatmaps look for, and links to the sounds of its neurons
  const lead = table => {
    const columns = [...table.tHead.rows[0].cells].map(head => head.dataset.column);
    const texts = (row, names) => names.map(name => row.cells[columns.indexOf(name)]?.textContent);
    for (const row of table.tBodies[0].rows) {
      const [x, i, y, j, neuron] = texts(row, ["model_x", "layer_x", "model_y", "layer_y", "neuron_x"]);
      const id = `pair ${x} layer ${i} in ${y} layer ${j}`;
      if (neuron && y && !document.getElementById(id)) row.id = id;
      for (const side of ["", "_x", "_y"]) {
        const [model, layer, number] = texts(row, ["model", "layer", "neuron"].map(name => name + side));
        const sounds = document.getElementById(`neuron-${model}-${layer}-${number}`);
        if (!sounds) continue;
        const link = document.createElement("a");
        link.href = "#" + sounds.id;
        link.title = "Listen to it";
        link.textContent = number;
        row.cells[columns.indexOf("neuron" + side)].replaceChildren(link);
      }
    }
  };
  for (const table of document.querySelectorAll("table.dataframe")) {
    const whole = table.tHead?.rows.length === 1 && !table.querySelector("[rowspan]");
    if (whole) lead(table);
    if (!whole || table.tBodies[0].rows.length < 3) continue;
    for (const head of table.tHead.querySelectorAll("th")) head.append(button("", head.childNodes));
  }
  open();
})();
