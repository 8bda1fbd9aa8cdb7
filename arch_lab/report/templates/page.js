"use strict";
(() => {
  // --- tables: a click on a head sorts by its column ---------------------------------------------------------------
  const SCALE = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 };
  const valueOf = (cell) => {
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    const text = cell.textContent.trim().replace("−", "-");
    const match = /^[^\d+-]{0,2}([+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?)\s?([kMGTP]?)/.exec(text);
    return match && cell.className.startsWith("n") ? Number(match[1].replaceAll(",", "")) * (SCALE[match[2]] || 1) : text;
  };
  const compare = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // dashes and words after numbers
    return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  };
  const sortBy = (table, head, column) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
    rows.sort((a, b) => (down ? -1 : 1) * compare(a[0], b[0]));
    for (const [, row] of rows) table.tBodies[0].append(row);
  };
  for (const table of document.querySelectorAll("table")) {
    if (!table.tHead || table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.classList.add("sorts");
      head.tabIndex = 0;
      head.title = "sort";
      head.addEventListener("click", () => sortBy(table, head, column));
      head.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sortBy(table, head, column); }
      });
    });
  }

  // --- charts: the same points over another axis -------------------------------------------------------------------
  const make = (name, attributes, parent) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  };
  const short = (value) => {
    const size = Math.abs(value);
    for (const [unit, scale] of [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]])
      if (size >= scale) return `${Number((value / scale).toPrecision(3))}${unit}`;
    return `${Number(value.toPrecision(4))}`;
  };
  const ticks = (low, high, count, log) => {
    if (log) {
      const out = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
        for (const step of high / low > 1e3 ? [1] : [1, 2, 5]) out.push(step * 10 ** power);
      const inside = out.filter((value) => value >= low && value <= high);
      if (inside.length > 1) return inside;
    }
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= 0.8 * rough);
    const out = [];
    for (let value = Math.ceil(low / step) * step; value <= high * (1 + 1e-9); value += step) out.push(value);
    return out;
  };
  const at = (line, axis, x) => {
    const xs = line.x[axis];
    if (x < xs[0] || x > xs[xs.length - 1]) return null;
    let i = 1;
    while (i < xs.length - 1 && xs[i] < x) i++;
    const share = xs[i] === xs[i - 1] ? 1 : (x - xs[i - 1]) / (xs[i] - xs[i - 1]);
    return line.y[i - 1] + share * (line.y[i] - line.y[i - 1]);
  };

  document.querySelectorAll("figure.chart").forEach((figure, number) => {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const still = figure.querySelector(".still");
    const state = { axis: data.axes[0].key, logX: false, logY: false, hidden: new Set() };
    const controls = document.createElement("div");
    const stage = document.createElement("div");
    const values = document.createElement("div");
    controls.className = "controls";
    stage.className = "live";
    values.className = "values";
    values.hidden = true;
    stage.append(values);
    still.before(controls, stage);
    still.hidden = true;

    const button = (text, pressed, act) => {
      const element = document.createElement("button");
      element.type = "button";
      element.append(text);
      element.setAttribute("aria-pressed", pressed());
      element.addEventListener("click", () => { act(); draw(); });
      element.refresh = () => element.setAttribute("aria-pressed", pressed());
      controls.append(element);
      return element;
    };
    const gap = () => { const element = document.createElement("span"); element.className = "gap"; controls.append(element); };
    for (const axis of data.axes) button(axis.label, () => state.axis === axis.key, () => { state.axis = axis.key; });
    gap();
    button("log x", () => state.logX, () => { state.logX = !state.logX; });
    if (data.frame[0] > 0) button("log y", () => state.logY, () => { state.logY = !state.logY; });
    gap();
    for (const line of data.lines) {
      const toggle = button(line.label, () => !state.hidden.has(line), () => {
        if (!state.hidden.delete(line)) state.hidden.add(line);
        toggle.classList.toggle("off", state.hidden.has(line));
      });
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = line.color;
      toggle.prepend(swatch);
    }

    let drawn = null;
    const draw = () => {
      for (const element of controls.querySelectorAll("button")) element.refresh();
      const width = Math.max(300, Math.min(1100, stage.clientWidth || 900));
      const height = width < 560 ? 280 : 400;
      const box = { left: 58, right: width < 560 ? 8 : 90, top: 10, bottom: 44 };
      const lines = data.lines.filter((line) => !state.hidden.has(line));
      const xs = data.lines.flatMap((line) => line.x[state.axis]).filter((x) => x > 0);
      const [x0, x1] = [state.logX ? Math.min(...xs) : 0, Math.max(...xs)];
      const [y0, y1] = data.frame;
      const place = (value, low, high, log) => (log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
      const px = (x) => box.left + place(Math.max(x, x0), x0, x1, state.logX) * (width - box.left - box.right);
      const py = (y) => height - box.bottom - place(y, y0, y1, state.logY) * (height - box.top - box.bottom);
      const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": data.title });
      svg.style.maxWidth = `${width}px`;
      const text = (content, attributes) => { make("text", { "font-size": 12, fill: "currentColor", ...attributes }, svg).textContent = content; };
      for (const y of ticks(y0, y1, 6, state.logY)) {
        make("line", { x1: box.left, x2: width - box.right, y1: py(y), y2: py(y), stroke: "var(--grid)" }, svg);
        text(short(y), { x: box.left - 6, y: py(y) + 4, "text-anchor": "end" });
      }
      for (const x of ticks(x0, x1, width < 560 ? 4 : 8, state.logX)) {
        make("line", { x1: px(x), x2: px(x), y1: box.top, y2: height - box.bottom, stroke: "var(--grid)" }, svg);
        text(short(x), { x: px(x), y: height - box.bottom + 16, "text-anchor": "middle" });
      }
      const middle = (height - box.bottom + box.top) / 2;
      text(data.axes.find((axis) => axis.key === state.axis).label, { x: (box.left + width - box.right) / 2, y: height - 6, "text-anchor": "middle" });
      text(data.title, { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` });
      const clip = make("clipPath", { id: `clip-${number}` }, svg);
      make("rect", { x: box.left, y: box.top, width: width - box.left - box.right, height: height - box.top - box.bottom }, clip);
      const plot = make("g", { "clip-path": `url(#clip-${number})` }, svg);
      for (const level of data.levels) {
        if (level.value < y0 || level.value > y1) continue;
        make("line", { x1: box.left, x2: width - box.right, y1: py(level.value), y2: py(level.value), stroke: "#888", "stroke-dasharray": "2 3" }, plot);
        const inside = width < 560;
        text(level.label, { x: width - box.right + (inside ? -2 : 4), y: py(level.value) + (inside ? -3 : 4), "text-anchor": inside ? "end" : "start" });
      }
      for (const line of lines) {
        const points = (ys) => ys.map((y, i) => [line.x[state.axis][i], y]).filter(([x]) => x > 0 || !state.logX).map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`);
        make("polygon", { points: [...points(line.high), ...points(line.low).reverse()].join(" "), fill: line.color, opacity: 0.18 }, plot);
        make("polyline", { points: points(line.y).join(" "), fill: "none", stroke: line.color, "stroke-width": 2, "stroke-dasharray": line.dash }, plot);
      }
      const guide = make("line", { y1: box.top, y2: height - box.bottom, stroke: "currentColor", "stroke-width": 0.7, visibility: "hidden" }, svg);
      const show = (event) => {
        const frame = svg.getBoundingClientRect();
        const scale = width / frame.width;
        const share = ((event.clientX - frame.left) * scale - box.left) / (width - box.left - box.right);
        if (share < 0 || share > 1) return hide();
        const x = state.logX ? x0 * (x1 / x0) ** share : x0 + share * (x1 - x0);
        guide.setAttribute("x1", px(x));
        guide.setAttribute("x2", px(x));
        guide.setAttribute("visibility", "visible");
        const rows = [["", `${short(x)} ${data.axes.find((axis) => axis.key === state.axis).label}`]];
        for (const line of lines) { const y = at(line, state.axis, x); if (y !== null) rows.push([line.color, `${line.label} ${y.toFixed(4)}`]); }
        values.replaceChildren(...rows.map(([color, words]) => {
          const row = document.createElement("div");
          if (color) { const swatch = document.createElement("span"); swatch.className = "swatch"; swatch.style.background = color; row.append(swatch); }
          row.append(words);
          return row;
        }));
        values.hidden = false;
        const left = event.clientX - figure.getBoundingClientRect().left;
        values.style.top = `${stage.offsetTop + 16}px`;
        values.style.left = `${Math.max(0, left + 14 + values.offsetWidth > figure.clientWidth ? left - values.offsetWidth - 14 : left + 14)}px`;
      };
      const hide = () => { values.hidden = true; guide.setAttribute("visibility", "hidden"); };
      svg.addEventListener("pointermove", show);
      svg.addEventListener("pointerdown", show);
      svg.addEventListener("pointerleave", hide);
      if (drawn) drawn.remove();
      drawn = svg;
      stage.prepend(svg);
    };
    draw();
    let timer = 0;
    window.addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(draw, 100); });
  });
})();
