"use strict";
// Draws the figures of the report from the numbers in #report-data. A figure is drawn when its tab is first shown.
(() => {
  const { report, copy, placeSteps, plot, narrow } = shared;
  const drawn = new Set();
  let logLike = true;

  // -- measures ----------------------------------------------------------------------------------------------
  function measureFigure(number) {
    const run = report.runs[number];
    const name = panel(number).querySelector("select[data-choose=measure]").value;
    const measure = run.measures[name];
    const figure = copy(report.figures[`run${number}-measures`]);
    let low = 0;
    let high = 0;
    for (const trace of figure.data) {
      const [layer, head] = trace.meta;
      trace.y = measure.values.map((row) => (row === null ? null : row[layer][head]));
      for (const value of trace.y) {
        low = Math.min(low, value ?? 0);
        high = Math.max(high, value ?? 0);
      }
    }
    for (const guide of measure.guides) {
      low = Math.min(low, guide.shape.y0);
      high = Math.max(high, guide.shape.y0);
      figure.layout.shapes.push(guide.shape);
      figure.layout.annotations.push(guide.note);
    }
    const room = 0.06 * (high - low || 1);
    figure.layout.yaxis.range = [low - (low < 0 ? room : room / 3), high + room];
    figure.layout.yaxis.title.text = measure.title;
    panel(number).querySelector("[data-text=measure]").textContent = measure.text;
    return figure;
  }

  // -- attention ---------------------------------------------------------------------------------------------
  // Maps travel as the lower triangle, row by row, in thousandths: the rest is what a causal decoder cannot see.
  function unpack(triangle, length) {
    const rows = [];
    let place = 0;
    for (let i = 0; i < length; i += 1) {
      const row = new Array(length).fill(null);
      for (let j = 0; j <= i; j += 1) row[j] = triangle[place++] / 1000;
      rows.push(row);
    }
    return rows;
  }

  function strengthsAt(run, step, layer, head) {
    const row = run.measure_steps.indexOf(step);
    const parts = [];
    for (const [name, short] of run.circuit.subtitles) {
      const value = run.measures[name]?.values[row]?.[layer][head];
      if (value !== undefined && value !== null) parts.push(`${short} ${value.toFixed(2)}`);
    }
    return parts.join(" · ");
  }

  function attentionFigure(number) {
    const run = report.runs[number];
    const controls = panel(number).querySelector(".attention-controls");
    const value = (name) => controls.querySelector(`[data-choose=${name}]`)?.value;
    const place = Number(value("checkpoint"));
    const kind = value("sequences");
    const step = run.attention.steps[place];
    const frame = `run${number}-attention-${narrow.matches ? "narrow-" : ""}${value("layer") ?? 0}`;
    const figure = copy(report.figures[frame]);
    const names = run.attention.names;
    const mean = kind === "mean";
    const maps = mean ? run.attention.mean : run.attention.examples[Number(kind)];
    const shown = mean ? names : run.attention.example_names[Number(kind)];
    figure.data.forEach((trace, index) => {
      const [layer, head] = trace.meta;
      trace.x = trace.y = names.map((_, i) => i);
      trace.z = unpack(maps[place][layer][head], names.length);
      trace.text = names.map((_, i) => names.map((__, j) => [shown[i], shown[j]]));
      trace.hovertemplate = "%{text[0]} looks at %{text[1]}: %{z:.3f}<extra></extra>";
      // A head has the name of its part only at checkpoints where the circuit is there.
      const part = run.circuit.heads[place][trace.name];
      const strengths = strengthsAt(run, step, layer, head);
      const small = strengths ? `<br><span style="font-size:11px;color:#666">${strengths}</span>` : "";
      figure.layout.annotations[index].text = `<b>head ${trace.name}</b>${part ? ` · ${part}` : ""}${small}`;
      const suffix = index ? String(index + 1) : "";
      for (const axis of [figure.layout[`xaxis${suffix}`], figure.layout[`yaxis${suffix}`]]) {
        axis.ticktext = axis.tickvals.map((i) => shown[i]);
      }
    });
    figure.layout.coloraxis.cmax = Number(value("top"));
    const accuracy = run.icl_at[String(step)];
    const score = accuracy === undefined ? "" : ` · icl ${accuracy.toFixed(3)}`;
    controls.querySelector("output").textContent = `step ${step.toLocaleString("en")}${score}`;
    return figure;
  }

  // -- drawing -----------------------------------------------------------------------------------------------
  const panel = (number) => document.getElementById(`run${number}`);

  function figureOf(place) {
    const [kind, number] = [place.dataset.kind, place.dataset.run];
    if (kind === "attention") return attentionFigure(number);
    if (kind === "explorer") return explorer.figure(number, () => redraw(number, "explorer"));
    const figure = kind === "measures" ? measureFigure(number) : copy(report.figures[place.dataset.figure]);
    return figure.layout.meta?.steps ? placeSteps(figure, logLike) : figure;
  }

  function draw(place) {
    drawn.add(place);
    return plot(place, figureOf(place));
  }

  function drawAll(root) {
    for (const place of root.querySelectorAll("[data-figure], [data-kind]")) if (!drawn.has(place)) draw(place);
  }

  const redraw = (number, kind) => draw(panel(number).querySelector(`[data-kind=${kind}]`));

  // -- tabs --------------------------------------------------------------------------------------------------
  const tabs = [...document.querySelectorAll("[role=tab]")];

  function show(tab) {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    const shown = document.getElementById(tab.getAttribute("aria-controls"));
    drawAll(shown);
    // A figure that was drawn at another width of the window learns of the present one.
    for (const place of shown.querySelectorAll(".js-plotly-plot:not([data-kind=attention], [data-kind=explorer])")) Plotly.Plots.resize(place);
  }

  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => {
      show(tab);
      history.replaceState(null, "", `#${encodeURIComponent(panel(index).dataset.id)}`);
    });
    tab.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move) return;
      const next = tabs[(index + move + tabs.length) % tabs.length];
      next.focus();
      show(next);
    });
  });

  // -- controls ----------------------------------------------------------------------------------------------
  for (const choose of document.querySelectorAll("[data-choose=axis]")) {
    choose.addEventListener("change", () => {
      logLike = choose.value === "log";
      for (const other of document.querySelectorAll("[data-choose=axis]")) other.value = choose.value;
      for (const place of drawn) if (place.layout?.meta?.steps) draw(place);
    });
  }

  report.runs.forEach((run, number) => {
    panel(number).querySelector("[data-choose=measure]")?.addEventListener("change", () => redraw(number, "measures"));
    const controls = panel(number).querySelector(".attention-controls");
    if (!controls) return;
    const slider = controls.querySelector("[data-choose=checkpoint]");
    for (const control of controls.querySelectorAll("select, input")) {
      control.addEventListener("input", () => redraw(number, "attention"));
    }
    const play = controls.querySelector("button");
    let timer = 0;
    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (slider.value === slider.max) slider.value = "0";
      play.textContent = "Stop";
      redraw(number, "attention");
      timer = setInterval(() => {
        slider.value = String(Number(slider.value) + 1);
        redraw(number, "attention");
        if (slider.value === slider.max) stop();
      }, 700);
    });
  });

  // -- start -------------------------------------------------------------------------------------------------
  narrow.addEventListener("change", () => drawn.forEach(draw));
  document.documentElement.classList.add("ready");
  const overview = document.getElementById("overview");
  if (overview) drawAll(overview);
  if (tabs.length) show(tabs[0]);
  else report.runs.forEach((_, number) => drawAll(panel(number)));

  // A link to a part of a run shows the run's tab; a tab that is chosen stands in the address.
  shared.follow((target) => {
    const tab = tabs.find((one) => one.getAttribute("aria-controls") === target.closest("article")?.id);
    if (tab && tab.getAttribute("aria-selected") !== "true") show(tab);
  });
})();
