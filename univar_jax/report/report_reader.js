// What a reader does with the map: point, isolate, search, move, zoom.

function legend(data, colours, press) {
  return data.sources.map((source, g) => {
    const button = make("button", { type: "button", "aria-pressed": "false", title: source.name });
    const glyph = make("canvas", { width: 36, height: 36, "aria-hidden": "true" });
    button.append(glyph, make(source.mine ? "b" : "span", {}, source.name));
    button.onclick = () => press(g);
    button.paint = () => {
      const ctx = glyph.getContext("2d");
      ctx.clearRect(0, 0, 36, 36);
      ctx.fillStyle = `rgb(${tint(data.palette[source.colour])})`;
      outline(ctx, data.markers[source.shape], 18, 18, 13);
      ctx.fill();
    };
    return button;
  });
}

function valueMap(data) {
  const canvas = byId("map-canvas");
  const source = unpacked(data.source);
  const langs = [...new Set(data.sources.map((s) => s.lang))].sort();
  const langOf = data.sources.map((s) => langs.indexOf(s.lang));
  const maps = {};
  for (const name of Object.keys(data.maps)) maps[name] = layout(data.maps[name], source, langOf, langs.length);
  const home = () => ({ x: 0.5, y: 0.5, zoom: 1 });
  const state = { view: home(), alone: -1, words: "", hulls: true, centres: true, arrows: true, source, all: true };
  state.on = new Uint8Array(data.rows).fill(1);
  const picture = new Picture(canvas, data, langs, langOf);
  // Of each point the place of its text, or -1.
  const textAt = new Int32Array(data.rows).fill(data.texts_of ? -1 : 0).map((at, i) => (data.texts_of ? at : i));
  (data.texts_of || []).forEach((row, at) => (textAt[row] = at));
  const low = data.texts.map((text) => text.toLowerCase());
  const lowNames = data.sources.map((s) => s.name.toLowerCase());

  let asked = false;
  const draw = () => {
    asked = false;
    picture.draw(state);
  };
  const redraw = () => {
    if (!asked) requestAnimationFrame(draw);
    asked = true;
  };

  const tip = byId("map-tip");
  const textOf = (i) => (textAt[i] < 0 ? "(its text is not in this page)" : data.texts[textAt[i]]);
  const hide = () => (tip.hidden = true);
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const ratio = canvas.width / canvas.clientWidth;
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const i = picture.nearest(state, x * ratio, y * ratio, (event.pointerType === "touch" ? 22 : 12) * ratio);
    if (i < 0) return hide();
    tip.replaceChildren(make("b", {}, data.sources[source[i]].name), document.createTextNode(textOf(i)));
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(x + 14, canvas.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${y > canvas.clientHeight / 2 ? Math.max(0, y - tip.offsetHeight - 10) : y + 14}px`;
  };

  const filter = () => {
    const { words, alone } = state;
    let found = 0;
    const some = [];
    const named = lowNames.map((name) => name.includes(words));
    for (let i = 0; i < data.rows; i++) {
      const hit = !words || named[source[i]] || (textAt[i] >= 0 && low[textAt[i]].includes(words));
      state.on[i] = hit && (alone < 0 || source[i] === alone) ? 1 : 0;
      found += state.on[i];
      if (words && state.on[i] && textAt[i] >= 0 && some.length < 8) some.push(i);
    }
    state.all = found === data.rows;
    const who = alone < 0 ? "" : ` of ${data.sources[alone].name}`;
    byId("map-said").textContent = state.all ? "" : `${found.toLocaleString("en")} points${who}`;
    byId("map-found").replaceChildren(
      ...some.map((i) => make("li", {}, `${data.sources[source[i]].name}: ${textOf(i)}`)),
    );
    keys.forEach((button, g) => button.setAttribute("aria-pressed", String(alone === g)));
    hide();
    redraw();
  };
  const isolate = (g) => {
    state.alone = state.alone === g ? -1 : g;
    filter();
  };
  const keys = legend(data, picture.colours, isolate);
  byId("map-legend").append(...keys.filter((_, g) => data.sources[g].mine), ...keys.filter((_, g) => !data.sources[g].mine));

  const zoom = (by, x = canvas.width / 2, y = canvas.height / 2) => {
    const before = picture.from(state.view, x, y);
    state.view.zoom = Math.min(60, Math.max(0.5, state.view.zoom * by));
    const after = picture.from(state.view, x, y);
    state.view.x += before[0] - after[0];
    state.view.y += before[1] - after[1];
    hide();
    redraw();
  };
  const move = (x, y) => {
    const [from, to] = [picture.from(state.view, 0, 0), picture.from(state.view, x, y)];
    state.view.x -= to[0] - from[0];
    state.view.y -= to[1] - from[1];
    hide();
    redraw();
  };
  const reset = () => {
    state.view = home();
    redraw();
  };

  let grip = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch") return point(event); // a finger that moves scrolls the page
    grip = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!grip) return point(event);
    const ratio = canvas.width / canvas.clientWidth;
    move((event.clientX - grip[0]) * ratio, (event.clientY - grip[1]) * ratio);
    grip = [event.clientX, event.clientY];
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (grip = null));
  canvas.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && hide());
  const wheel = (event) => {
    // Until the map has been clicked the wheel is the page's, or a reader would be caught here.
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    const ratio = canvas.width / canvas.clientWidth;
    zoom(Math.exp(-event.deltaY / 400), event.offsetX * ratio, event.offsetY * ratio);
  };
  canvas.addEventListener("wheel", wheel, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (step) move(...step);
    else if (event.key === "+" || event.key === "=") zoom(1.3);
    else if (event.key === "-") zoom(1 / 1.3);
    else if (event.key === "0") reset();
    else return;
    event.preventDefault();
  });
  addEventListener("keydown", (event) => event.key === "Escape" && state.alone >= 0 && isolate(state.alone));

  byId("map-search").oninput = (event) => {
    state.words = event.target.value.trim().toLowerCase();
    filter();
  };
  byId("map-hulls").onchange = (event) => redraw((state.hulls = event.target.checked));
  byId("map-centres").onchange = (event) => redraw((state.centres = event.target.checked));
  if (byId("map-arrows")) byId("map-arrows").onchange = (event) => redraw((state.arrows = event.target.checked));
  byId("map-in").onclick = () => zoom(1.4);
  byId("map-out").onclick = () => zoom(1 / 1.4);
  byId("map-reset").onclick = reset;
  const near = () => {
    const x = state.map.arrows.flatMap(({ ends }) => [ends[0], ends[2]]);
    const y = state.map.arrows.flatMap(({ ends }) => [ends[1], ends[3]]);
    const wide = Math.max(...state.map.arrows.map(({ ellipse }) => ellipse[0]));
    const [left, right, low, high] = [Math.min(...x), Math.max(...x), Math.min(...y), Math.max(...y)];
    const zoom = FULL / (1.3 * (Math.max(right - left, high - low) + wide));
    state.view = { x: (left + right) / 2 / FULL, y: (low + high) / 2 / FULL, zoom: Math.min(60, Math.max(0.5, zoom)) };
    hide();
    redraw();
  };
  if (byId("map-near")) byId("map-near").onclick = near;
  const pick = () => {
    state.map = maps[document.querySelector("input[name=which]:checked").value];
    reset();
  };
  for (const input of document.querySelectorAll("input[name=which]")) input.onchange = pick;
  const paint = () => {
    for (const button of keys) button.paint();
    redraw();
  };
  dark.addEventListener("change", paint);
  show("map", "map-still");
  new ResizeObserver(() => {
    const ratio = Math.min(2, devicePixelRatio || 1);
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    redraw();
  }).observe(canvas);
  pick();
  paint();
  return { state, draw, place: (i) => picture.to(state.view, state.map.xy[2 * i], state.map.xy[2 * i + 1]) };
}
