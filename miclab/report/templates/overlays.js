// The page of the strongest heads: one head's attention from one position, laid over the pictures of an episode.
(() => {
  const { heads, episodes, parts } = shared.report;
  const control = (name) => document.querySelector(`[data-choose="${name}"]`);
  const [head, from, episode, opacity] = ["head", "from", "episode", "opacity"].map(control);
  const items = document.querySelector("[data-items]");
  const share = (row, places) => places.reduce((sum, place) => sum + row[place], 0) / parts;
  const made = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

  function shade(element, value) {
    element.style.setProperty("--share", Math.min(1, value).toFixed(3));
    element.classList.add("shade");
    return element;
  }

  function drawPicture(one, row) {
    const box = made("div", "overlay");
    box.append(Object.assign(new Image(), { src: one.source, alt: "" }));
    const grid = made("div", "grid");
    grid.style.gridTemplateColumns = `repeat(${one.columns}, 1fr)`;
    const fields = one.rows * one.columns > 1 ? one.positions.map((place) => [place]) : [one.positions];
    for (const places of fields) {
      const field = shade(made("i", "field"), share(row, places));
      field.title = share(row, places).toFixed(3);
      grid.append(field);
    }
    box.append(grid);
    return box;
  }

  function drawItem(one, row) {
    const box = made("figure", "item");
    const pictures = made("div", "pictures");
    pictures.append(...one.pictures.map((picture) => drawPicture(picture, row)));
    if (one.text) pictures.append(shade(made("span", "words", one.text), share(row, one.item)));
    const name = shade(made("figcaption", one.wanted ? "name right" : "name", one.answer), share(row, one.label));
    const onLabel = one.label.length ? ` · name ${share(row, one.label).toFixed(2)}` : "";
    box.append(pictures, name, made("small", "", `item ${share(row, one.item).toFixed(2)}${onLabel}`));
    return box;
  }

  // Shares of the last position, in words.
  function says(shown, name) {
    const row = shown.attention[name][0];
    const of = (part, chosen) => shown.items.filter(chosen).reduce((sum, one) => sum + share(row, one[part]), 0);
    const right = of("label", (one) => one.wanted);
    const wrong = of("label", (one) => !one.wanted);
    const on = of("item", () => true);
    const rest = Math.max(0, share(row, [...row.keys()]) - right - wrong - on);
    return `Before the answer, in this episode: ${right.toFixed(2)} on the right names, ${wrong.toFixed(2)} on others, ` +
      `${on.toFixed(2)} on items, ${rest.toFixed(2)} on other text.`;
  }

  function draw() {
    const shown = episodes[Number(episode.value)];
    const { head: name, called } = heads[Number(head.value)];
    const row = shown.attention[name][Number(from.value)];
    items.replaceChildren(...shown.items.map((one) => drawItem(one, row)));
    const text = called ? `${name}, ${called}` : name;
    document.querySelector("[data-shown=head]").textContent = text;
    head.setAttribute("aria-valuetext", text);
    const inside = shown.items.flatMap((one) => [...one.item, ...one.label]);
    const rest = Math.max(0, share(row, [...row.keys()]) - share(row, inside));
    // The token of that text which gets most.
    const outside = [...row.keys()].filter((place) => !inside.includes(place));
    const most = outside.reduce((best, place) => (best < 0 || row[place] > row[best] ? place : best), -1);
    const where = rest >= 0.005 && most >= 0 ? `, most of it on “${shown.tokens[most]}”` : "";
    document.querySelector("[data-sum]").textContent = `On all other text: ${rest.toFixed(2)}${where}.`;
    for (const place of document.querySelectorAll("[data-says]")) place.textContent = says(shown, place.dataset.says);
    for (const button of document.querySelectorAll("[data-head]")) {
      button.setAttribute("aria-pressed", String(button.dataset.head === head.value));
    }
  }

  // Names differ from episode to episode, and there may be fewer.
  function nameSources() {
    const before = from.value;
    const { sources } = episodes[Number(episode.value)];
    from.replaceChildren(...sources.map((words, place) => new Option(words, place)));
    from.value = Number(before) < sources.length ? before : "0";
  }

  const strength = () => items.style.setProperty("--strength", opacity.value / 100);
  head.addEventListener("input", draw);
  from.addEventListener("input", draw);
  episode.addEventListener("input", () => { nameSources(); draw(); });
  opacity.addEventListener("input", strength);
  for (const button of document.querySelectorAll("[data-head]")) {
    button.addEventListener("click", () => {
      head.value = button.dataset.head;
      draw();
      items.scrollIntoView({ block: "nearest" });
    });
  }
  strength();
  draw();
  document.documentElement.classList.add("ready");
  shared.follow();
})();
