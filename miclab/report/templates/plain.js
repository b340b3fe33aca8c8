// Draws every figure of a page as it stands: nothing on it is chosen by the reader.
for (const place of document.querySelectorAll("[data-figure]")) {
  const { data, layout } = shared.report.figures[place.dataset.figure];
  Plotly.newPlot(place, data, layout, shared.settings);
}
