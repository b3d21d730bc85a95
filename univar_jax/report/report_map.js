// The map: all points are blended into one image, so that 50,000 of them are drawn within a frame; a grid of cells
// finds the point under the pointer. Places are uint16 in a square, y upwards.

const FULL = 65535;

function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Uint16Array(bytes.buffer);
}

// The outline of a marker, by matplotlib's letter for it, of about radius r.
function outline(ctx, marker, x, y, r) {
  const corners = (n, turn, inner = 1) => {
    for (let k = 0; k < n; k++) {
      const angle = turn + (2 * Math.PI * k) / n - Math.PI / 2;
      const far = r * (k % 2 ? inner : 1) * 1.15;
      ctx.lineTo(x + far * Math.cos(angle), y + far * Math.sin(angle));
    }
  };
  const cross = (turn) => {
    const [cos, sin, w] = [Math.cos(turn), Math.sin(turn), 0.36];
    const path = [[w, w], [w, 1], [-w, 1], [-w, w], [-1, w], [-1, -w], [-w, -w], [-w, -1], [w, -1], [w, -w], [1, -w], [1, w]];
    for (const [u, v] of path) ctx.lineTo(x + 1.1 * r * (u * cos - v * sin), y + 1.1 * r * (u * sin + v * cos));
  };
  const draw = {
    o: () => ctx.arc(x, y, r, 0, 7),
    s: () => ctx.rect(x - 0.88 * r, y - 0.88 * r, 1.76 * r, 1.76 * r),
    "^": () => corners(3, 0),
    v: () => corners(3, Math.PI),
    "<": () => corners(3, -Math.PI / 2),
    ">": () => corners(3, Math.PI / 2),
    D: () => corners(4, 0),
    P: () => cross(0),
    X: () => cross(Math.PI / 4),
    "*": () => corners(10, 0, 0.42),
    p: () => corners(5, 0),
    h: () => corners(6, 0),
  };
  ctx.beginPath();
  (draw[marker] || draw.o)();
  ctx.closePath();
}

// How much of each pixel a marker covers, 0 to 255, in a square of `side` pixels.
function stamp(marker, r) {
  const side = 2 * Math.ceil(r * 1.2) + 1;
  const ctx = new OffscreenCanvas(side, side).getContext("2d");
  outline(ctx, marker, side / 2, side / 2, r);
  ctx.fill();
  return { side, cover: ctx.getImageData(0, 0, side, side).data.filter((_, at) => at % 4 === 3) };
}

// Points by the cell of a grid they lie in: those of cell c are order[start[c]] … order[start[c + 1] - 1].
function gridOf(xy, n) {
  const side = Math.max(1, Math.min(256, Math.round(Math.sqrt(n / 3))));
  const cell = (k) => Math.min(side - 1, Math.floor((xy[k] / (FULL + 1)) * side));
  const start = new Uint32Array(side * side + 1);
  for (let i = 0; i < n; i++) start[cell(2 * i + 1) * side + cell(2 * i) + 1]++;
  for (let c = 0; c < side * side; c++) start[c + 1] += start[c];
  const next = start.slice();
  const order = new Uint32Array(n);
  for (let i = 0; i < n; i++) order[next[cell(2 * i + 1) * side + cell(2 * i)]++] = i;
  return { side, start, order };
}

function means(xy, of, groups) {
  const sum = new Float64Array(3 * groups);
  of.forEach((g, i) => {
    sum[3 * g] += xy[2 * i];
    sum[3 * g + 1] += xy[2 * i + 1];
    sum[3 * g + 2]++;
  });
  return Array.from({ length: groups }, (_, g) => [sum[3 * g] / sum[3 * g + 2], sum[3 * g + 1] / sum[3 * g + 2]]);
}

function layout(place, source, langOf, langs) {
  const xy = unpacked(place.xy);
  const n = source.length;
  const lang = source.map((g) => langOf[g]);
  const found = { xy, hulls: place.hulls, arrows: place.arrows || [], grid: gridOf(xy, n) };
  return Object.assign(found, { centres: means(xy, source, langOf.length), homes: means(xy, lang, langs) });
}

function blend(image, width, height, mark, colour, alpha, x, y) {
  const { side, cover } = mark;
  const [left, top] = [Math.round(x - side / 2), Math.round(y - side / 2)];
  if (left < 0 || top < 0 || left + side > width || top + side > height) return;
  for (let v = 0, at = 0; v < side; v++) {
    let to = 4 * ((top + v) * width + left);
    for (let u = 0; u < side; u++, at++, to += 4) {
      const share = alpha * cover[at];
      if (!share) continue;
      image[to] += (colour[0] - image[to]) * share;
      image[to + 1] += (colour[1] - image[to + 1]) * share;
      image[to + 2] += (colour[2] - image[to + 2]) * share;
    }
  }
}

// Everything that is drawn, onto one canvas; `state` says where it looks and who is on.
class Picture {
  constructor(canvas, data, langs, langOf) {
    Object.assign(this, { canvas, data, langs, langOf, ctx: canvas.getContext("2d", { willReadFrequently: true }) });
    this.image = null;
  }

  // To pixels of the canvas, and back.
  to(view, x, y) {
    const size = Math.min(this.canvas.width, this.canvas.height) * 0.92 * view.zoom;
    return [this.canvas.width / 2 + (x / FULL - view.x) * size, this.canvas.height / 2 - (y / FULL - view.y) * size];
  }

  from(view, x, y) {
    const size = Math.min(this.canvas.width, this.canvas.height) * 0.92 * view.zoom;
    return [(x - this.canvas.width / 2) / size + view.x, (this.canvas.height / 2 - y) / size + view.y];
  }

  draw(state) {
    const { canvas, ctx, data } = this;
    const { width, height } = canvas;
    if (!width || !height) return;
    if (!this.image || this.image.width !== width || this.image.height !== height) {
      this.image = ctx.createImageData(width, height);
    }
    const ratio = canvas.width / canvas.clientWidth;
    this.paper = dark.matches ? [30, 35, 40] : [255, 255, 255];
    new Uint32Array(this.image.data.buffer).fill(
      (255 << 24) | (this.paper[2] << 16) | (this.paper[1] << 8) | this.paper[0],
    );
    this.colours = data.palette.map(tint);
    this.points(state, ratio);
    ctx.putImageData(this.image, 0, 0);
    if (state.hulls && state.alone < 0) this.hulls(state, ratio);
    if (state.centres) this.centres(state, ratio);
    if (state.arrows) this.arrows(state, ratio);
  }

  points(state, ratio) {
    const { data, canvas } = this;
    const { xy } = state.map;
    const r = Math.min(5, Math.max(1.8, 90 / Math.sqrt(data.rows))) * ratio * Math.min(2, Math.sqrt(state.view.zoom));
    const marks = [...data.markers].map((marker) => stamp(marker, r));
    const speck = { side: 1, cover: [255] };
    const large = [...data.markers].map((marker) => stamp(marker, 1.7 * r));
    const some = data.sources.some((source) => source.mine); // then the others step back
    const looks = data.sources.map(({ shape, colour, mine }) => {
      return [(mine ? large : marks)[shape], this.colours[colour], (mine ? 0.95 : some ? 0.4 : 0.6) / 255];
    });
    const grey = dark.matches ? [120, 128, 136] : [170, 176, 182];
    // What is off first, below what is on, and mine on top. The line is to's, without an array a point.
    const size = Math.min(canvas.width, canvas.height) * 0.92 * state.view.zoom;
    const [left, top] = [canvas.width / 2 - state.view.x * size, canvas.height / 2 + state.view.y * size];
    const layers = [...(state.all ? [] : [0]), 1, ...(some ? [2] : [])];
    const layer = (i) => state.on[i] * (data.sources[state.source[i]].mine ? 2 : 1);
    for (const on of layers) {
      for (let i = 0; i < data.rows; i++) {
        if ((some ? layer(i) : state.on[i]) !== on) continue;
        const [x, y] = [left + (xy[2 * i] / FULL) * size, top - (xy[2 * i + 1] / FULL) * size];
        const [mark, colour, alpha] = on ? looks[state.source[i]] : [speck, grey, 0.5 / 255];
        blend(this.image.data, canvas.width, canvas.height, mark, colour, alpha, x, y);
      }
    }
  }

  hulls(state, ratio) {
    const { ctx } = this;
    ctx.setLineDash([5 * ratio, 4 * ratio]);
    ctx.lineWidth = 1.3 * ratio;
    for (const [colour, ...corners] of state.map.hulls) {
      ctx.strokeStyle = `rgb(${this.colours[colour]})`;
      ctx.beginPath();
      for (let k = 0; k < corners.length; k += 2) ctx.lineTo(...this.to(state.view, corners[k], corners[k + 1]));
      ctx.closePath();
      ctx.stroke();
    }
    ctx.setLineDash([]);
  }

  // From before to after, dark with a light rim so that they stand out on any colour; dotted is what noise would do.
  arrows(state, ratio) {
    const { ctx, data } = this;
    const [ink, rim] = [dark.matches ? "#fff" : "#000", `rgb(${this.paper})`];
    const alone = state.alone < 0 ? null : data.sources[state.alone].name;
    const size = (Math.min(this.canvas.width, this.canvas.height) * 0.92 * state.view.zoom) / FULL;
    ctx.lineCap = ctx.lineJoin = "round";
    for (const { before, after, ends, ellipse } of state.map.arrows) {
      if (alone && alone !== before && alone !== after) continue;
      const [[x, y], [u, v]] = [this.to(state.view, ends[0], ends[1]), this.to(state.view, ends[2], ends[3])];
      ctx.beginPath(); // the map's y goes up, the canvas's down
      ctx.ellipse(x, y, (ellipse[0] / 2) * size, (ellipse[1] / 2) * size, (-ellipse[2] * Math.PI) / 180, 0, 7);
      ctx.strokeStyle = ink;
      ctx.lineWidth = 1.3 * ratio;
      ctx.setLineDash([1, 4 * ratio]);
      ctx.stroke();
      ctx.setLineDash([]);
      const [turn, head] = [Math.atan2(v - y, u - x), Math.min(11 * ratio, 0.6 * Math.hypot(u - x, v - y))];
      ctx.beginPath();
      ctx.moveTo(x, y);
      ctx.lineTo(u, v);
      for (const side of [-0.45, 0.45]) {
        ctx.moveTo(u - head * Math.cos(turn + side), v - head * Math.sin(turn + side));
        ctx.lineTo(u, v);
      }
      for (const [colour, wide] of [[rim, 5.5], [ink, 2.4]]) {
        ctx.strokeStyle = colour;
        ctx.lineWidth = wide * ratio;
        ctx.stroke();
      }
    }
    ctx.lineCap = "butt";
    ctx.lineJoin = "miter";
  }

  centres(state, ratio) {
    const { ctx, data } = this;
    const [many, crowd] = [data.sources.length > 12, data.sources.length > 30];
    const labels = [];
    const order = data.sources.map((_, g) => g).sort((a, b) => (data.sources[a].mine || 0) - (data.sources[b].mine || 0));
    for (const g of order) {
      const source = data.sources[g];
      if (state.alone >= 0 && state.alone !== g) continue;
      const [x, y] = this.to(state.view, ...state.map.centres[g]);
      ctx.strokeStyle = ctx.fillStyle = `rgb(${this.colours[source.colour]})`;
      ctx.lineWidth = 1.3 * ratio;
      ctx.beginPath();
      ctx.moveTo(...this.to(state.view, ...state.map.homes[this.langOf[g]]));
      ctx.lineTo(x, y);
      ctx.stroke();
      outline(ctx, data.markers[source.shape], x, y, (source.mine ? 13 : crowd ? 5 : 7) * ratio);
      ctx.fill();
      ctx.strokeStyle = dark.matches ? "#000" : "#fff";
      ctx.stroke();
      if (!many || source.mine || state.alone === g) labels.push([x, y, source.name, source.mine]);
    }
    if (many && state.alone < 0 && this.langs.length > 1) {
      this.langs.forEach((name, l) => labels.push([...this.to(state.view, ...state.map.homes[l]), name]));
    }
    this.labels(labels, ratio);
  }

  // Names beside their centroids, pushed down where they would lie on one another.
  labels(labels, ratio) {
    const { ctx } = this;
    ctx.textBaseline = "middle";
    ctx.lineWidth = 3.5 * ratio;
    ctx.strokeStyle = `rgb(${this.paper})`;
    ctx.fillStyle = dark.matches ? "#e6e9ec" : "#1c2127";
    const placed = [];
    const line = 15 * ratio;
    for (const [x, y, name, mine] of labels.sort((a, b) => a[1] - b[1])) {
      ctx.font = `${mine ? "bold " : ""}${12.5 * ratio}px system-ui, sans-serif`;
      const wide = ctx.measureText(name).width;
      const right = x + 10 * ratio;
      const u = right + wide < this.canvas.width ? right : Math.max(2, x - 10 * ratio - wide);
      let v = y;
      for (const [near_u, near_v, near_wide] of placed) {
        if (u < near_u + near_wide && near_u < u + wide && Math.abs(v - near_v) < line) v = near_v + line;
      }
      placed.push([u, v, wide]);
      placed.sort((a, b) => a[1] - b[1]);
      ctx.strokeText(name, u, v);
      ctx.fillText(name, u, v);
    }
  }

  // The nearest point that is on within `reach` pixels, or -1.
  nearest(state, x, y, reach) {
    const { xy, grid } = state.map;
    const [u, v] = this.from(state.view, x, y);
    const size = Math.min(this.canvas.width, this.canvas.height) * 0.92 * state.view.zoom;
    const [far, cells] = [reach / size, (w) => Math.floor(w * grid.side)];
    const inside = (c) => Math.min(Math.max(c, 0), grid.side - 1);
    let [best, least] = [-1, far * far];
    for (let row = inside(cells(v - far)); row <= inside(cells(v + far)); row++) {
      for (let column = inside(cells(u - far)); column <= inside(cells(u + far)); column++) {
        const c = row * grid.side + column;
        for (let k = grid.start[c]; k < grid.start[c + 1]; k++) {
          const i = grid.order[k];
          const d = (xy[2 * i] / FULL - u) ** 2 + (xy[2 * i + 1] / FULL - v) ** 2;
          if (d <= least && state.on[i]) [best, least] = [i, d];
        }
      }
    }
    return best;
  }
}
