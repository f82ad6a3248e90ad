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
  const measure = map => map.title.split(":")[0];
  const model = label => label.replace(/ layer \d+$/, "");
  // the first row of neurons of these layers, or else of these models, and which of both it is
  const goal = (map, row, column) => {
    const pair = [map.rows[row], map.columns[column]];
    const rows = [...document.querySelectorAll("tr[id^='pair ']")];
    for (const [what, part] of [["layers", label => label], ["models", model]])
      for (const [x, y] of [pair, [...pair].reverse()]) {
        const there = rows.find(({ id }) => id.slice(5).split(" in ").map(part).join() === [x, y].map(part).join());
        if (there) return [there, what];
      }
    return [];
  };
  const say = (map, row, column) => {
    const place = row * map.columns.length + column;
    const said = map.numbers
      .map(({ name, parts }) => [name, parts.map(p => p[place])])
      .filter(([, values]) => values.every(Number.isFinite))
      .map(([name, values]) => /^p\b/.test(name) && values[0] < 1e-4 ? name + " < 0.0001" : name + " " + values.map(text).join(" to "));
    const [, what] = goal(map, row, column);
    const more = what ? `; click or Enter leads to neurons of these ${what}` : "";
    return `${map.rows[row]} in ${map.columns[column]}, ${measure(map)}: ${said.join(", ") || "not compared"}${more}`;
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
    panel.style.cursor = goal(map, row, column).length ? "pointer" : "";
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
  const follow = map => {
    const [there] = goal(map, map.row, map.column);
    if (there) location.hash = encodeURIComponent(there.id);
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
    panel.addEventListener("click", () => follow(of(panel)));
    panel.addEventListener("pointerleave", event => event.pointerType === "mouse" && hide());
    panel.addEventListener("focus", () => panel.matches(":focus-visible") && show(panel, of(panel).row, of(panel).column));
    panel.addEventListener("blur", hide);
    panel.addEventListener("keydown", event => {
      const map = of(panel);
      const last = [map.rows.length - 1, map.columns.length - 1];
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const far = { Home: [map.row, 0], End: [map.row, last[1]], PageUp: [0, map.column], PageDown: [last[0], map.column] };
      if (event.key === "Escape") return hide();
      if (event.key === "Enter") return follow(map);
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

  // the block of two models, enlarged to a table of its numbers
  const STOPS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"]; // viridis
  const paint = (cell, share) => {
    const at = Math.max(0, Math.min(1, share)) * (STOPS.length - 1);
    const ends = [Math.floor(at), Math.ceil(at)].map(i => STOPS[i].match(/../g).map(two => parseInt(two, 16)));
    cell.style.background = `rgb(${ends[0].map((low, i) => Math.round(low + (at % 1) * (ends[1][i] - low)))})`;
    cell.style.color = share < 0.43 ? "#fff" : "#000";
  };
  const make = (name, parent, text = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const enlarge = (map, x, y) => {
    const box = document.createElement("div");
    const table = make("table", box);
    box.className = "scroll";
    make("caption", table, `${map.title}${map.above ? ", less chance" : ""}: layers of ${x} in those of ${y}`);
    const places = (labels, name) => [...labels.keys()].filter(i => model(labels[i]) === name);
    const [rows, columns] = [places(map.rows, x), places(map.columns, y)];
    const number = label => label.match(/\d*$/)[0];
    const head = make("tr", make("thead", table));
    make("td", head);
    for (const j of columns) make("th", head, number(map.columns[j])).scope = "col";
    const body = make("tbody", table);
    const part = name => map.numbers.find(each => each.name === name)?.parts[0];
    const [value, chance, p] = [map.numbers[0].parts[0], map.above && part("chance"), part("p by t test")];
    for (const i of rows) {
      const row = make("tr", body);
      make("th", row, number(map.rows[i])).scope = "row";
      for (const j of columns) {
        const place = i * map.columns.length + j;
        const shown = value[place] - (chance ? chance[place] : 0);
        const [there, what] = goal(map, i, j);
        const cell = make("td", row);
        const holder = what === "layers" && Number.isFinite(shown) ? make("a", cell) : cell;
        if (holder !== cell) holder.href = "#" + encodeURIComponent(there.id);
        holder.textContent = Number.isFinite(shown) ? text(shown).slice(0, -2) : "";
        cell.title = say(map, i, j);
        if (Number.isFinite(shown)) paint(cell, (shown - map.scale[0]) / (map.scale[1] - map.scale[0]));
        if (p?.[place] > 0.05) cell.className = "struck";
      }
    }
    return rows.length && columns.length ? box : "";
  };
  for (const details of document.querySelectorAll(".enlarge")) {
    details.addEventListener("toggle", () => {
      if (details.querySelector("select")) return;
      const maps = [...details.closest("figure").querySelectorAll(".cells")].map(of);
      const models = labels => [...new Set(labels.map(model))];
      const select = what => make("select", make("label", details, what));
      const [x, y, box] = [select("layers of "), select(" in those of "), make("div", details)];
      const draw = () => box.replaceChildren(...maps.map(map => enlarge(map, x.value, y.value)));
      const pair = () => { // models that are compared with x, at first another one
        const names = models(maps.flatMap(map => models(map.rows).includes(x.value) ? map.columns : []));
        const kept = [y.value, ...names.filter(name => name !== x.value), ...names].find(name => names.includes(name));
        y.replaceChildren(...names.map(name => new Option(name)));
        y.value = kept;
        draw();
      };
      x.append(...models(maps.flatMap(map => map.rows)).map(name => new Option(name)));
      x.onchange = pair;
      y.onchange = draw;
      pair();
    });
  }
})();
