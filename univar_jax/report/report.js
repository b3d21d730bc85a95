"use strict";
// What all parts of the page use, the questions, and the files to take away. Data reach the page as text nodes and
// attributes alone, never as HTML: names and answers come from anywhere.

const byId = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");

function make(tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

function show(live, still) {
  byId(live).hidden = false;
  if (still && byId(still)) byId(still).hidden = true;
}

function fill(select, names) {
  const before = select.value;
  select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  if (names.includes(before)) select.value = before;
}

const number = (x, digits = 3) => (x === null || x === undefined ? "–" : x.toFixed(digits));

// A colour of the palette, lighter on a dark page: some are hard to see there as they are; black turns white.
function tint(hex) {
  if (hex === "#000000" && dark.matches) return [255, 255, 255];
  const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return dark.matches ? parts.map((part) => Math.round(part + (255 - part) * 0.35)) : parts;
}

function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function csv(rows) {
  const quoted = (cell) => (/[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  return rows.map((row) => row.map((cell) => quoted(cell === null ? "" : String(cell))).join(",") + "\n").join("");
}

// The rows of a table as they are read; a cell over several columns is followed by empty ones.
function rowsOf(table) {
  return [...table.rows].map((row) =>
    [...row.cells].flatMap((cell) => {
      const text = cell.textContent.replace(/\s+/g, " ").trim();
      return [text, ...Array(cell.colSpan - 1).fill("")];
    }),
  );
}

function distanceRows(apart) {
  const keys = ["rows", "shared", "centroid", "centroid_shared", "centroid_floor", "centroid_p", "centroid_q"];
  keys.push("energy", "floor", "p", "q");
  const found = [];
  apart.names.forEach((a, i) => {
    for (let j = i + 1; j < apart.names.length; j++) {
      found.push([a, apart.names[j], ...keys.map((key) => (key in apart ? apart[key][i][j] : ""))]);
    }
  });
  found.sort((x, y) => x[4] - y[4]);
  return [["a", "b", ...keys], ...found];
}

function takeAway(metrics) {
  const json = "application/json";
  const whole = byId("save-metrics");
  whole.onclick = () => save(whole.textContent, byId("metrics").textContent + "\n", json);
  if (metrics.distances) {
    byId("save-distances").onclick = () => save("distances.csv", csv(distanceRows(metrics.distances)), "text/csv");
  }
  for (const table of document.querySelectorAll("table[data-csv]")) {
    const name = `${table.dataset.csv}.csv`;
    const button = make("button", { type: "button" }, name);
    button.onclick = () => save(name, csv(rowsOf(table)), "text/csv");
    byId("save-tables").append(button);
  }
  show("save");
}

// Two selectors in place of a long list; the second one offers only sources that were compared with the first.
// Returns a function that shows a pair and says whether it is there.
function questionPairs() {
  const pairs = [...document.querySelectorAll("details.pair")];
  if (!pairs.length) return () => false;
  const a = byId("pair-a");
  const b = byId("pair-b");
  const has = (pair, name) => pair.dataset.a === name || pair.dataset.b === name;
  const choose = () => {
    const with_a = pairs.filter((pair) => has(pair, a.value));
    fill(b, with_a.map((pair) => (pair.dataset.a === a.value ? pair.dataset.b : pair.dataset.a)).sort());
    const chosen = with_a.find((pair) => has(pair, b.value));
    for (const pair of pairs) pair.hidden = pair !== chosen;
  };
  fill(a, [...new Set(pairs.flatMap((pair) => [pair.dataset.a, pair.dataset.b]))].sort());
  for (const pair of pairs) pair.open = true; // what is chosen is to be read at once
  a.onchange = b.onchange = choose;
  for (const [select, name] of [[a, pairs[0].dataset.a], [b, pairs[0].dataset.b]]) {
    select.value = name;
    choose();
  }
  show("pair");
  return (first, second) => {
    if (!pairs.some((pair) => has(pair, first) && has(pair, second))) return false;
    a.value = first;
    choose();
    b.value = second;
    choose();
    byId("pair").scrollIntoView({ block: "center" });
    a.focus({ preventScroll: true });
    return true;
  };
}

addEventListener("DOMContentLoaded", () => {
  const metrics = JSON.parse(byId("metrics").textContent);
  window.valueMap = valueMap(JSON.parse(byId("points").textContent));
  const ask = questionPairs();
  if (metrics.distances) heatMap(metrics.distances, ask); // a page without them comes without that part of the script
  takeAway(metrics);
});
