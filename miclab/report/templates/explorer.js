"use strict";
// The explorer of each run: one sequence that the reader changes, and what the decoder makes of it. The controls hold
// the whole state; after every change it is read from them, and the decoder runs again.
const explorer = (() => {
  const { report, copy, narrow } = shared;
  const made = new Map();
  const SHOWN = 5;

  function element(tag, words = "", attributes = {}) {
    const one = document.createElement(tag);
    one.textContent = words;
    for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
    return one;
  }

  // -- noise -------------------------------------------------------------------------------------------------
  // Standard normal numbers that are a function of a text, by mulberry32 and Box and Muller. So an example keeps its
  // noise when it is moved or gets another class.
  function normal(text, count) {
    let state = 2166136261;
    for (const letter of text) state = Math.imul(state ^ letter.charCodeAt(0), 16777619);
    const uniform = () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
    return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
  }

  // (mu + eps eta) / sqrt(1 + eps^2) with eta ~ Normal(0, I/D), as `miclab.worlds.world` has it.
  function itemAround(prototype, noise, name) {
    const drawn = normal(name, prototype.length);
    const scale = noise / Math.sqrt(prototype.length);
    return prototype.map((value, d) => (value + scale * drawn[d]) / Math.sqrt(1 + noise * noise));
  }

  // -- one run's explorer ------------------------------------------------------------------------------------
  function make(number) {
    const run = report.runs[number];
    const settings = run.explorer;
    const decoder = makeDecoder(settings);
    const root = document.querySelector(`[data-explorer="${number}"]`);
    const control = (name) => root.querySelector(`[data-choose=${name}]`);
    const body = root.querySelector("tbody");
    let seed = 0;

    function className(name, index) {
      const training = settings.training[name];
      // The number comes first, since a narrow screen cuts the end.
      if (index >= training) return `${index - training + 1}, novel`;
      return `${index + 1}, training, ${settings.noun} ${settings.label_of[name][index]}`;
    }

    function choice(label, texts, chosen, attributes) {
      const select = element("select", "", { "aria-label": label, ...attributes });
      texts.forEach((text, i) => select.append(new Option(text, String(i), i === chosen, i === chosen)));
      return select;
    }

    function rowOf(start, example) {
      const isQuery = example === settings.context;
      const word = isQuery ? "query" : `example ${example + 1}`;
      const row = element("tr", "", { "data-noise": String(example) });
      row.append(element("td", isQuery ? word : String(example + 1)));
      for (const name of settings.order) {
        const texts = Array.from({ length: settings.shapes[`classes.${name}`][0] }, (_, i) => className(name, i));
        const cell = element("td");
        cell.append(choice(`class of ${name}, ${word}`, texts, start.classes[name][example], { "data-modality": name }));
        row.append(cell);
      }
      const [label, buttons] = [element("td"), element("td")];
      if (!isQuery) {
        const texts = Array.from({ length: settings.shapes.labels[0] }, (_, i) => String(i));
        label.append(choice(`label, ${word}`, texts, start.labels[example], { "data-label": "" }));
        for (const [arrow, name] of [["↑", "up"], ["↓", "down"]]) {
          buttons.append(element("button", arrow, { type: "button", "data-move": name, "aria-label": `move ${word} ${name}` }));
        }
      }
      row.append(label, buttons);
      return row;
    }

    function begin() {
      const start = settings.starts[Number(control("start").value)];
      body.replaceChildren(...Array.from({ length: settings.context + 1 }, (_, i) => rowOf(start, i)));
    }

    // The sequence that the controls say, its classes, and the heads that are off.
    function state() {
      const rows = [...body.rows];
      const [items, classes] = [{}, {}];
      for (const name of settings.order) {
        const noise = Math.min(100, Math.max(0, Number(control(`noise-${name}`).value) || 0));
        classes[name] = rows.map((row) => Number(row.querySelector(`[data-modality="${name}"]`).value));
        items[name] = rows.map((row, i) =>
          itemAround(decoder.row(`classes.${name}`, classes[name][i]), noise, `${seed}/${row.dataset.noise}/${name}`),
        );
      }
      const labels = rows.slice(0, -1).map((row) => Number(row.querySelector("[data-label]").value));
      const off = [...root.querySelectorAll("[data-head]")].filter((box) => !box.checked).map((box) => box.dataset.head);
      const place = Math.min(settings.places - 1, Math.max(0, Math.round(Number(control("place")?.value ?? 0))));
      return { items, labels, classes, off, place };
    }

    // Labels of the examples whose classes are all the query's.
    function rightLabels({ classes, labels }) {
      const names = settings.order;
      return new Set(labels.filter((_, i) => names.every((name) => classes[name][i] === classes[name].at(-1))));
    }

    function bar(share, kind) {
      const one = element("span", "", { class: `share ${kind}` });
      one.style.width = `${(100 * share).toFixed(1)}%`;
      return one;
    }

    function showAnswer(now, found, whole) {
      const right = rightLabels(now);
      const ranked = [...found.probabilities.keys()].sort((a, b) => found.probabilities[b] - found.probabilities[a]);
      const answer = ranked[0];
      const context = right.size
        ? `The examples of the query's ${settings.order.length > 1 ? "classes have" : "class have"} label ${[...right].join(", ")}.`
        : "No example is of the query's class, so the context does not say the label.";
      const lines = [...new Set([...ranked.slice(0, SHOWN), ...right])].map((label) => {
        const line = element("div", "", { class: "answer" });
        const track = element("span", "", { class: "track" });
        track.append(bar(found.probabilities[label], right.has(label) ? "right" : "other"));
        if (whole) track.append(bar(whole.probabilities[label], "whole"));
        const before = whole ? ` (${whole.probabilities[label].toFixed(3)})` : "";
        line.append(element("span", `label ${label}${right.has(label) ? " ✓" : ""}`), track);
        line.append(element("span", `${found.probabilities[label].toFixed(3)}${before}`));
        return line;
      });
      const words = element("p", `The decoder answers label ${answer} with probability ${found.probabilities[answer].toFixed(3)}. `);
      words.append(context);
      if (whole) words.append(" In brackets and as a thin line: with every head.");
      root.querySelector(".answers").replaceChildren(words, ...lines);
    }

    function figure() {
      const now = state();
      const found = decoder.run(now, now.off);
      showAnswer(now, found, now.off.length ? decoder.run(now) : null);
      const right = rightLabels(now);
      const labels = now.labels[Symbol.iterator]();
      const names = settings.names.map((name) => {
        if (!name.startsWith("l")) return name;
        const label = labels.next().value;
        return right.has(label) ? `<b>${name}=${label}</b>` : `${name}=${label}`;
      });
      const drawn = copy(report.figures[`run${number}-attention-${narrow.matches ? "narrow-" : ""}${control("layer")?.value ?? 0}`]);
      const parts = run.circuit.heads[run.attention.steps.indexOf(settings.step)] ?? {};
      drawn.data.forEach((trace, index) => {
        const [layer, head] = trace.meta;
        trace.x = trace.y = names.map((_, i) => i);
        trace.z = found.patterns[layer][head].map((shares) => names.map((_, j) => shares[j] ?? null));
        trace.text = names.map((_, i) => names.map((__, j) => [names[i], names[j]]));
        trace.hovertemplate = "%{text[0]} looks at %{text[1]}: %{z:.3f}<extra></extra>";
        const part = parts[trace.name] ? ` · ${parts[trace.name]}` : "";
        const isOff = now.off.includes(trace.name) ? " · off" : "";
        drawn.layout.annotations[index].text = `<b>head ${trace.name}</b>${part}${isOff}`;
        const suffix = index ? String(index + 1) : "";
        for (const axis of [drawn.layout[`xaxis${suffix}`], drawn.layout[`yaxis${suffix}`]]) {
          axis.ticktext = axis.tickvals.map((i) => names[i]);
        }
      });
      drawn.layout.coloraxis.cmax = Number(control("top").value);
      return drawn;
    }

    // Two examples change places: classes, label and noise. The rows stay, since they are named by their place.
    function exchange(one, two) {
      const [first, second] = [one, two].map((row) => [...row.querySelectorAll("select")]);
      first.forEach((select, i) => ([select.value, second[i].value] = [second[i].value, select.value]));
      [one.dataset.noise, two.dataset.noise] = [two.dataset.noise, one.dataset.noise];
    }

    function listen(redraw) {
      root.addEventListener("input", (event) => {
        if (event.target.dataset.choose === "start") begin();
        redraw();
      });
      root.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (!button) return;
        const move = button.dataset.move;
        if (move) {
          const row = button.closest("tr");
          const other = move === "up" ? row.previousElementSibling : row.nextElementSibling;
          // The query stays last.
          if (!other || other === body.lastElementChild) return;
          exchange(row, other);
          other.querySelector(`[data-move=${move}]`).focus();
        }
        if (button.dataset.act === "noise") seed += 1;
        if (button.dataset.act === "again") {
          seed = 0;
          for (const input of root.querySelectorAll("input")) [input.value, input.checked] = [input.defaultValue, true];
          begin();
        }
        redraw();
      });
    }

    begin();
    return { figure, listen, state, run: decoder.run };
  }

  // The decoder of a run is unpacked when its tab is first shown.
  function of(number, redraw) {
    if (!made.has(number)) {
      made.set(number, make(number));
      made.get(number).listen(redraw);
    }
    return made.get(number);
  }

  // In the console: `explorers.get("0").run(sequence, off)` gives logits and patterns.
  window.explorers = made;
  return { figure: (number, redraw) => of(number, redraw).figure() };
})();
