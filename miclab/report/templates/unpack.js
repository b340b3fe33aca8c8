"use strict";
// Plotly travels compressed, at two fifths of its size. It is run as a script of the page once it is unpacked.
async function unpack(element) {
  if (!("DecompressionStream" in window)) {
    const words = document.createElement("p");
    words.className = "problems";
    words.textContent = "The figures need a browser of 2023 or later (Chrome 80, Firefox 113, Safari 16.4). The tables are complete.";
    document.querySelector("header").append(words);
    throw new Error(words.textContent);
  }
  const bytes = Uint8Array.from(atob(element.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const made = document.createElement("script");
  made.textContent = await new Response(stream).text();
  element.remove();
  document.head.append(made);
}
