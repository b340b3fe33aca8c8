"use strict";
// What the pages have in common: their numbers, Plotly's settings, and the axis of training steps.
const shared = (() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const settings = {
    displaylogo: false,
    responsive: true,
    plotlyServerURL: "",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: "miclab" },
  };
  const copy = (value) => JSON.parse(JSON.stringify(value));
  const shortNumber = (v) => (v >= 1e6 ? `${v / 1e6}M` : v >= 1000 ? `${v / 1000}k` : String(v));

  // Step 0 has a place on a log-like axis: it is linear in log10(1 + step), and its ticks are named by the step.
  function placeSteps(figure, logLike) {
    const axis = figure.layout.xaxis;
    let last = 1;
    for (const trace of figure.data) {
      const steps = trace.x;
      last = Math.max(last, ...steps);
      trace.customdata = steps;
      if (logLike) trace.x = steps.map((step) => Math.log10(1 + step));
    }
    axis.unifiedhovertitle = { text: "step %{customdata}" };
    if (!logLike) {
      Object.assign(axis, { range: [-0.015 * last, 1.015 * last], tickformat: "~s" });
      return figure;
    }
    const end = Math.log10(1 + last);
    const ticks = [0];
    for (let power = 0; 10 ** power <= last; power += 1) {
      ticks.push(10 ** power);
      if (end < 5 && 3 * 10 ** power <= last) ticks.push(3 * 10 ** power);
    }
    axis.tickvals = ticks.map((step) => Math.log10(1 + step));
    axis.ticktext = ticks.map(shortNumber);
    axis.range = [-0.015 * end, 1.015 * end];
    return figure;
  }

  return { report, settings, copy, placeSteps };
})();
