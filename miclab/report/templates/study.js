// The page of a study: draws a figure when it comes near, and shows the runs of the cell that the reader chooses.
(() => {
  const { report, copy, placeSteps, plot, reserve, coded, narrow } = shared;
  const find = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const drawn = new Set();
  let logLike = true;
  let chosen = -1;

  // -- colours -----------------------------------------------------------------------------------------------
  // Figures come in the colours of a light page; on a dark one these change. Scales of heatmaps stay.
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const night = {
    "#ffffff": "#16191d", "#2b2b2b": "#e4e4e4", "#333333": "#dcdcdc", "#5f5f5f": "#b0b0b0", "#ececec": "#30353b",
    "#b5b5b5": "#5c636b", "#8a8a8a": "#9a9a9a", "#0072B2": "#4aa3df", "#D55E00": "#f07a2a", "#009E73": "#2bbf93",
  };
  function themed(figure) {
    if (!dark.matches) return figure;
    const text = JSON.stringify({ ...figure, layout: { template: report.template, ...figure.layout } }).replace(/"(#[0-9a-fA-F]{6})"/g, (whole, colour) => `"${night[colour] ?? colour}"`);
    return JSON.parse(text);
  }

  // -- figures -----------------------------------------------------------------------------------------------
  const single = { probes: Object.keys(report.figures).find((name) => /^probe-(?!context)/.test(name))?.split("-").pop() };

  function nameOf(place) {
    const group = place.dataset.group;
    if (!group) return place.dataset.figure;
    const control = find(`[data-variant="${group}"]`);
    return `${place.dataset.figure}-${control ? control.value : single[group]}`;
  }

  const styles = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333"];

  function cellFigure() {
    const figure = copy(report.figures.cell);
    const score = find("#cell [data-choose=score]").value;
    figure.layout.yaxis.title.text = report.scores[score];
    report.runs.filter((run) => run.cell === chosen && run.curves.steps.length).forEach((run, index) => {
      figure.data.push({
        type: "scatter", mode: "lines+markers", name: `seed ${run.seed}`, x: run.curves.steps, y: run.curves[score],
        line: { width: 2, color: colours[index % colours.length], dash: styles[index % styles.length] },
        marker: { size: 4 }, hovertemplate: "step %{customdata:,}: %{y:.3f}",
      });
    });
    return figure;
  }

  function scatterFigure() {
    const figure = copy(report.figures.scatter);
    const measure = report.measures[Number(find("[data-choose=scatter]").value)];
    for (const trace of figure.data) trace.x = trace.meta.runs.map((run) => measure.values[run]);
    figure.layout.xaxis.title.text = measure.title;
    find("#measures [data-text=measure]").textContent = measure.text;
    return figure;
  }

  function figureOf(place) {
    if (place.dataset.kind === "cell") return placeSteps(cellFigure(), logLike);
    if (place.dataset.kind === "scatter") return scatterFigure();
    const figure = copy(report.figures[nameOf(place)] ?? { data: [], layout: { height: 60 } });
    if (figure.layout.meta?.steps) placeSteps(figure, logLike);
    if (figure.layout.title && figure.data[0]?.type === "heatmap") figure.layout.shapes = frameOf(figure.data[0]);
    return figure;
  }

  // A frame around the chosen cell of a heatmap.
  function frameOf(heat) {
    for (const [y, row] of heat.customdata.entries()) {
      const x = row.indexOf(chosen);
      if (chosen >= 0 && x >= 0) {
        const line = { color: "#d6246e", width: 3 };
        return [{ type: "rect", x0: x - 0.48, x1: x + 0.48, y0: y - 0.48, y1: y + 0.48, line }];
      }
    }
    return [];
  }

  function draw(place) {
    const figure = themed(figureOf(place));
    const first = !drawn.has(place);
    drawn.add(place);
    plot(place, figure);
    if (first) place.on("plotly_click", (event) => clicked(figure.layout.meta ?? {}, event.points[0]));
  }

  function clicked(meta, point) {
    if (meta.runs) return choose(report.runs[point.customdata].cell, point.customdata);
    if (!meta.cells) return undefined;
    const value = point.data.meta?.cell ?? cellAt(point);
    return Number.isInteger(value) && value >= 0 ? choose(value) : undefined;
  }

  function cellAt(point) {
    if (point.data.type !== "heatmap") return point.customdata;
    return point.data.customdata[Math.round(point.y)]?.[Math.round(point.x)];
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
  }, { rootMargin: "600px" });
  const places = all("[data-figure], [data-kind=scatter]");
  for (const place of places) {
    reserve(place, report.figures[place.dataset.kind ?? nameOf(place)]);
    near.observe(place);
  }
  window.addEventListener("beforeprint", () => places.filter((place) => !drawn.has(place)).forEach(draw));
  dark.addEventListener("change", () => drawn.forEach(draw));

  // -- the runs of a cell ------------------------------------------------------------------------------------
  function make(tag, text, kind) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  function runsTable(cell, chosenRun) {
    const head = ["seed", "run", "status", "reason", "step", ...Object.keys(report.scores)];
    const made = make("table", undefined, "plain");
    const top = made.appendChild(make("thead")).appendChild(make("tr"));
    head.forEach((name, place) => top.append(make("th", name, place === 0 || place > 3 ? "number" : "")));
    const body = made.appendChild(make("tbody"));
    report.runs.forEach((run, index) => {
      if (run.cell !== cell) return;
      const row = body.appendChild(make("tr", undefined, index === chosenRun ? "chosen" : ""));
      row.append(make("td", String(run.seed), "number"));
      const hash = row.appendChild(make("td")).appendChild(make("code", run.hash.slice(0, 12)));
      hash.title = run.hash;
      const kind = { finished: "good", failed: "bad" }[run.status] ?? "plain";
      row.appendChild(make("td")).append(make("span", run.status, `mark ${kind}`));
      row.appendChild(make("td")).append(...coded(run.reason));
      row.append(make("td", run.step === null || run.step === undefined ? "" : run.step.toLocaleString("en"), "number"));
      for (const score of Object.keys(report.scores)) {
        row.append(make("td", run[score] === null ? "" : run[score].toFixed(3), "number"));
      }
    });
    shared.labelCells(made);
    const scroll = make("div", undefined, "scroll");
    scroll.append(made);
    return scroll;
  }

  function choose(cell, run = -1) {
    chosen = cell;
    const panel = find("#cell");
    find("[data-text=title]", panel).textContent = `Runs at ${report.cells[cell]}`;
    find("[data-text=hint]", panel).textContent = "";
    find("[data-place=runs]", panel).replaceChildren(runsTable(cell, run));
    const curves = report.runs.some((one) => one.cell === cell && one.curves.steps.length);
    find("[data-place=controls]", panel).hidden = !curves;
    const place = find("[data-kind=cell]", panel);
    place.hidden = !curves;
    if (curves) draw(place);
    for (const row of all("tr[data-cell]")) row.classList.toggle("chosen", Number(row.dataset.cell) === cell);
    for (const other of drawn) {
      if (other.data?.[0]?.type === "heatmap") Plotly.relayout(other, { shapes: frameOf(other.data[0]) });
    }
    panel.scrollIntoView({ block: "nearest" });
  }

  // -- controls ----------------------------------------------------------------------------------------------
  function pressable(row, act) {
    row.addEventListener("click", act);
    row.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      act();
    });
  }
  for (const row of all("tr[data-cell]")) pressable(row, () => choose(Number(row.dataset.cell)));
  const scatter = find("[data-choose=scatter]");
  function chooseMeasure(number, drawNow = true) {
    scatter.value = String(number);
    if (drawNow) draw(find("[data-kind=scatter]"));
    for (const row of all("tr[data-measure]")) row.classList.toggle("chosen", Number(row.dataset.measure) === number);
  }
  for (const row of all("tr[data-measure]")) pressable(row, () => chooseMeasure(Number(row.dataset.measure)));
  if (scatter) chooseMeasure(0, false);
  scatter?.addEventListener("change", () => chooseMeasure(Number(scatter.value)));
  find("#cell [data-choose=score]")?.addEventListener("change", () => draw(find("[data-kind=cell]")));
  for (const control of all("[data-variant]")) {
    const group = control.dataset.variant;
    control.addEventListener("change", () => {
      for (const place of all(`[data-group="${group}"]`)) if (drawn.has(place)) draw(place);
    });
  }
  find("[data-choose=axis]")?.addEventListener("change", (event) => {
    logLike = event.target.value === "log";
    for (const place of drawn) if (place.layout?.meta?.steps) draw(place);
  });
  narrow.addEventListener("change", () => drawn.forEach(draw));
  document.documentElement.classList.add("ready");
  shared.follow();
})();
