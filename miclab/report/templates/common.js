"use strict";
// What the pages have in common: their numbers, Plotly's settings and template, the axis of training steps, links to
// parts of a page, and tables on narrow screens.
const shared = (() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const settings = {
    displaylogo: false,
    responsive: true,
    plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: "miclab" },
  };
  const narrow = window.matchMedia("(max-width: 640px)");
  const copy = (value) => JSON.parse(JSON.stringify(value));
  const shortNumber = (v) => (v >= 1e6 ? `${v / 1e6}M` : v >= 1000 ? `${v / 1000}k` : String(v));

  // -- figures -----------------------------------------------------------------------------------------------
  // Step 0 has a place on a log-like axis: it is linear in log10(1 + step), and its ticks are named by the step.
  function placeSteps(figure, logLike) {
    const axis = figure.layout.xaxis;
    let last = 1;
    for (const trace of figure.data) {
      const steps = trace.x;
      for (const step of steps) last = Math.max(last, step);
      trace.customdata = steps;
      if (logLike) trace.x = steps.map((step) => Math.log10(1 + step));
    }
    nameSteps(figure);
    if (!logLike) {
      Object.assign(axis, { range: [-0.015 * last, 1.015 * last], tickformat: "~s" });
      return figure;
    }
    const end = Math.log10(1 + last);
    const ticks = [0];
    for (let power = 0; 10 ** power <= last; power += 1) {
      ticks.push(10 ** power);
      if (end < 5 && 3 * 10 ** power <= last && !narrow.matches) ticks.push(3 * 10 ** power);
    }
    axis.tickvals = ticks.map((step) => Math.log10(1 + step));
    axis.ticktext = ticks.map(shortNumber);
    axis.range = [-0.015 * end, 1.015 * end];
    return figure;
  }

  // Plotly's title of a box on all lines knows the place on the axis alone, which on a log-like axis is not the step.
  // So the box has no title, and its first line is that of a trace that is not drawn. Last among the traces: the
  // figures' own keep their places.
  function nameSteps(figure) {
    if (figure.layout.hovermode !== "x unified") return;
    const places = new Map();
    for (const trace of figure.data) {
      if (trace.hoverinfo === "skip") continue;
      trace.x.forEach((x, i) => {
        const y = trace.y[i];
        if (y !== null && y !== undefined && !places.has(x)) places.set(x, [y, trace.customdata[i]]);
      });
    }
    const kept = [...places].sort((a, b) => a[0] - b[0]);
    figure.layout.xaxis.unifiedhovertitle = { text: '<span style="font-size:1px"> </span>' };
    figure.layout.hoverdistance = -1;
    figure.data.push({
      type: "scatter", mode: "lines", name: "step", showlegend: false, legendrank: 1, opacity: 0, line: { width: 0 },
      x: kept.map(([x]) => x), y: kept.map(([, [y]]) => y), customdata: kept.map(([, [, step]]) => step),
      hovertemplate: "%{customdata:,}",
    });
  }

  function plot(place, { data, layout }) {
    if (narrow.matches) fit(data, layout);
    const figure = { template: report.template, ...layout };
    return Plotly.react(place, data, figure, { ...settings, displayModeBar: narrow.matches ? false : "hover" });
  }

  // A figure on a narrow screen. Nothing stands at its right side, where bars have their values: a table has them too.
  // A finger that scrolls the page over it does not draw a rectangle in it. Every line of the legend adds to its height.
  function fit(data, layout) {
    layout.dragmode = false;
    if (layout.width) return;
    const notes = layout.annotations?.filter((note) => !(note.xref === "paper" && note.x > 1));
    const named = layout.showlegend === false ? 0 : data.filter((trace) => trace.name && trace.showlegend !== false).length;
    Object.assign(layout, { font: { ...layout.font, size: 11 }, ...(notes && { annotations: notes }) });
    layout.margin = { ...layout.margin, l: 44, r: 8, b: layout.margin?.b ?? 44 };
    layout.height += 16 * Math.max(0, named - 1);
    for (const axis of [layout.xaxis, layout.yaxis]) if (axis) axis.fixedrange = true;
  }

  // Figures that are not drawn yet keep their height free, so that a link to what follows them finds its place.
  function reserve(place, figure) {
    if (figure?.layout?.height) place.style.minHeight = `${figure.layout.height}px`;
  }

  // -- words -------------------------------------------------------------------------------------------------
  // A text whose parts in `backticks` are code, as nodes.
  function coded(text) {
    return text.split(/`([^`]+)`/).map((part, place) => {
      if (place % 2 === 0) return document.createTextNode(part);
      const made = document.createElement("code");
      made.textContent = part;
      return made;
    });
  }

  // On a narrow screen a row's cells stand one below the other, each with the name of its column.
  function labelCells(table) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent);
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, place) => {
        if (names[place]) cell.dataset.label = names[place];
        if (!cell.textContent) cell.dataset.empty = "";
        // One element, which stands beside the column's name.
        const whole = document.createElement("span");
        whole.append(...cell.childNodes);
        cell.append(whole);
      });
    }
  }

  // -- links -------------------------------------------------------------------------------------------------
  // Scrolls to the part that the address names. `reveal` first shows what holds it: a tab, for example.
  function follow(reveal = () => {}) {
    const go = () => {
      let id = "";
      try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
      const target = id && document.getElementById(id);
      if (!target) return;
      reveal(target);
      for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
      target.scrollIntoView();
    };
    window.addEventListener("hashchange", go);
    go();
  }

  for (const table of document.querySelectorAll("table.plain, table.cells")) labelCells(table);
  return { report, settings, copy, placeSteps, plot, reserve, coded, labelCells, follow, narrow };
})();
