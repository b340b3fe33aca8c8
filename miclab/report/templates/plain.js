// Draws every figure of a page as it stands: nothing on it is chosen by the reader.
for (const place of document.querySelectorAll("[data-figure]")) {
  shared.plot(place, shared.copy(shared.report.figures[place.dataset.figure]));
}
document.documentElement.classList.add("ready");
shared.follow();
