"use strict";
// Reads out the cells of heatmaps: under the pointer, at a touch, and by arrow keys.
(() => {
  const DECIMALS = 4;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  const mark = document.createElement("div");
  mark.className = "mark";
  document.body.append(tip);

  const numbers = text => {
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  };
  const unpack = panel => {
    const map = JSON.parse(panel.dataset.cells);
    for (const number of map.numbers) number.parts = number.parts.map(numbers);
    return Object.assign(map, { row: 0, column: 0 });
  };
  const known = new WeakMap();
  const of = panel => {
    if (!known.has(panel)) known.set(panel, unpack(panel));
    return known.get(panel);
  };

  const text = value => value.toFixed(DECIMALS).replace(/^-(0\.0+)$/, "$1"); // no minus before nothing
  const say = (map, row, column) => {
    const place = row * map.columns.length + column;
    const said = map.numbers
      .map(({ name, parts }) => [name, parts.map(p => p[place])])
      .filter(([, values]) => values.every(Number.isFinite))
      .map(([name, values]) => name + " " + values.map(text).join(" to "));
    return map.rows[row] + " in " + map.columns[column] + ": " + (said.join(", ") || "not compared");
  };

  const show = (panel, row, column) => {
    const map = of(panel);
    map.row = row;
    map.column = column;
    const [rows, columns] = [map.rows.length, map.columns.length];
    mark.style.cssText = `left:${100 * column / columns}%;top:${100 * row / rows}%;width:${100 / columns}%;height:${100 / rows}%`;
    panel.append(mark);
    tip.textContent = say(map, row, column);
    tip.hidden = false;
    const cell = mark.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(8, Math.min(cell.right + 8, room)) + window.scrollX + "px";
    const below = cell.bottom + 8 + tip.offsetHeight < window.innerHeight;
    tip.style.top = (below ? cell.bottom + 8 : cell.top - 8 - tip.offsetHeight) + window.scrollY + "px";
  };
  const hide = () => {
    tip.hidden = true;
    mark.remove();
  };
  const within = (place, count) => Math.max(0, Math.min(count - 1, place));

  for (const panel of document.querySelectorAll(".cells")) {
    const point = event => {
      const box = panel.getBoundingClientRect();
      const map = of(panel);
      const row = Math.floor((event.clientY - box.top) / box.height * map.rows.length);
      const column = Math.floor((event.clientX - box.left) / box.width * map.columns.length);
      show(panel, within(row, map.rows.length), within(column, map.columns.length));
    };
    panel.addEventListener("pointermove", point);
    panel.addEventListener("pointerdown", point);
    panel.addEventListener("pointerleave", event => event.pointerType === "mouse" && hide());
    panel.addEventListener("focus", () => panel.matches(":focus-visible") && show(panel, of(panel).row, of(panel).column));
    panel.addEventListener("blur", hide);
    panel.addEventListener("keydown", event => {
      const map = of(panel);
      const last = [map.rows.length - 1, map.columns.length - 1];
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const far = { Home: [map.row, 0], End: [map.row, last[1]], PageUp: [0, map.column], PageDown: [last[0], map.column] };
      if (event.key === "Escape") return hide();
      if (event.key in steps) {
        const [down, right] = steps[event.key];
        show(panel, within(map.row + down, last[0] + 1), within(map.column + right, last[1] + 1));
      } else if (event.key in far) {
        show(panel, ...far[event.key]);
      } else {
        return;
      }
      event.preventDefault();
    });
  }
})();
