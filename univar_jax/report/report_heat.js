// The heat map of distances with its tree. `ask` shows the questions of two sources.

const CIVIDIS = ["#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838"];

function ramp(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const parts = [1, 3, 5].map((digit) => {
    const [from, to] = [low, low + 1].map((i) => parseInt(CIVIDIS[i].slice(digit, digit + 2), 16));
    return Math.round(from + (to - from) * (at - low));
  });
  return `rgb(${parts})`;
}

// The leaves of scipy's linkage from left to right, as the still picture has them.
function leaves(linkage, s) {
  const under = Array.from({ length: s }, (_, i) => [i]);
  for (const [left, right] of linkage) under.push([...under[left], ...under[right]]);
  return under[under.length - 1] || [];
}

function heatOrder(apart, kind, order, to) {
  const tree = leaves(apart.linkage, apart.names.length);
  if (order === "name") return [...tree].sort((i, j) => i - j); // the names come sorted
  if (order !== "near") return tree;
  const row = apart[kind][to];
  const far = (i) => (i === to ? -Infinity : row[i] === null ? Infinity : row[i]);
  return [...tree].sort((i, j) => (far(i) === far(j) ? i - j : far(i) < far(j) ? -1 : 1));
}

function drawTree(svg, apart, order, rows, header) {
  const width = 90;
  const height = header + rows.reduce((sum, row) => sum + row, 0);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  const part = (tag, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const top = apart.linkage.length ? apart.linkage[apart.linkage.length - 1][2] || 1 : 1;
  const x = (far) => width - 5 - (far / top) * (width - 12);
  const at = [];
  let y = header;
  order.forEach((i, place) => {
    at[i] = [width - 5, y + rows[place] / 2];
    y += rows[place];
  });
  const drawn = [];
  apart.linkage.forEach(([left, right, far], node) => {
    const [[x1, y1], [x2, y2], x0] = [at[left], at[right], x(far)];
    const d = `M${x1},${y1}H${x0}V${y2}H${x2}`;
    drawn.push(part("path", { d, fill: "none", stroke: "currentColor", "stroke-width": 1.3 }));
    at.push([x0, (y1 + y2) / 2]);
    if (apart.support[node] >= 0.95 && node < apart.linkage.length - 1) {
      drawn.push(part("circle", { cx: x0, cy: (y1 + y2) / 2, r: 3, fill: "currentColor" }));
    }
  });
  svg.replaceChildren(...drawn);
}

function describe(apart, i, j) {
  const { names } = apart;
  if (i === j) return `${names[i]}: itself`;
  const of = (key, digits) => (key in apart ? number(apart[key][i][j], digits) : "–");
  return (
    `${names[i]} – ${names[j]}: centroids ${of("centroid")} (over shared questions ${of("centroid_shared")}, ` +
    `floor ${of("centroid_floor")}, p ${of("centroid_p")}, q ${of("centroid_q")}); ` +
    `energy ${of("energy")} (floor ${of("floor")}, p ${of("p")}, q ${of("q")}); ${of("shared", 0)} shared questions`
  );
}

// One row of cells; `top` is the largest distance there is.
function heatRow(apart, kind, order, place, top, side) {
  const i = order[place];
  const row = make("tr");
  const label = make("th", { scope: "row" }, order.length > 60 ? apart.names[i] : `${place + 1}  ${apart.names[i]}`);
  order.forEach((j, column) => {
    const value = apart[kind][i][j];
    const near = value / top;
    const cell = make("td", { tabindex: -1, role: "gridcell", "data-at": `${place},${column}` });
    cell.style.cssText = `width:${side}px;min-width:${side}px;height:${side}px`;
    if (i !== j && value !== null) {
      cell.style.background = ramp(near);
      cell.style.color = near < 0.55 ? "#fff" : "#000";
      if (side >= 34) cell.textContent = value.toFixed(2);
    } else if (side >= 34) cell.textContent = "–";
    cell.setAttribute("aria-label", `${apart.names[i]} – ${apart.names[j]}: ${i === j ? "itself" : number(value)}`);
    row.append(cell);
  });
  row.append(label);
  return row;
}

function heatMap(apart, ask) {
  const s = apart.names.length;
  if (s < 2) return;
  const table = byId("heat-table");
  const side = s <= 12 ? 36 : s <= 40 ? 20 : 13;
  let order = [];
  const build = () => {
    const kind = document.querySelector("input[name=kind]:checked").value;
    const by = byId("heat-order").value;
    byId("heat-to").disabled = by !== "near";
    order = heatOrder(apart, kind, by, apart.names.indexOf(byId("heat-to").value));
    const top = apart[kind].flat().reduce((most, value) => Math.max(most, value || 0), 0) || 1;
    const head = make("tr");
    head.append(...order.map((_, place) => make("th", { scope: "col" }, s <= 60 ? String(place + 1) : "")), make("td"));
    const [thead, tbody] = [make("thead"), make("tbody")];
    thead.append(head);
    tbody.append(...order.map((_, place) => heatRow(apart, kind, order, place, top, side)));
    table.replaceChildren(thead, tbody);
    table.style.fontSize = side < 20 ? "11px" : "";
    tbody.rows[0].cells[0].tabIndex = 0;
    byId("heat-low").textContent = "0";
    byId("heat-high").textContent = number(top);
    byId("heat-tree").toggleAttribute("hidden", by !== "tree");
    if (by === "tree") {
      const heights = [...tbody.rows].map((row) => row.getBoundingClientRect().height);
      drawTree(byId("heat-tree"), apart, order, heights, thead.getBoundingClientRect().height);
    }
  };
  const at = (cell) => cell.dataset.at.split(",").map(Number);
  const tell = (event) => {
    const cell = event.target.closest("td[data-at]");
    if (!cell) return;
    const [row, column] = at(cell);
    byId("heat-said").textContent = describe(apart, order[row], order[column]);
  };
  const open = (cell) => {
    const [row, column] = at(cell);
    ask(apart.names[order[row]], apart.names[order[column]]);
  };
  table.addEventListener("pointerover", tell);
  table.addEventListener("focusin", tell);
  table.addEventListener("click", (event) => event.target.closest("td[data-at]")?.focus());
  table.addEventListener("dblclick", (event) => event.target.dataset.at && open(event.target));
  table.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td[data-at]");
    if (!cell) return;
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Enter") open(cell);
    if (!step) return;
    event.preventDefault();
    const [row, column] = at(cell).map((place, axis) => Math.min(Math.max(place + step[axis], 0), s - 1));
    const next = table.tBodies[0].rows[row].cells[column];
    [cell.tabIndex, next.tabIndex] = [-1, 0];
    next.focus();
  });
  fill(byId("heat-to"), apart.names);
  for (const input of document.querySelectorAll("input[name=kind]")) input.onchange = build;
  byId("heat-order").onchange = byId("heat-to").onchange = build;
  show("heat", "heat-still"); // before it is built: what is hidden has no heights
  build();
}
