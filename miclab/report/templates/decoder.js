"use strict";
// The forward pass of a decoder, as `miclab.model.decoder.Decoder.trace` computes it. It knows nothing of the page.
// A matrix is a list of rows; a weight is one flat array [input, output], used as row @ weight.
const makeDecoder = (settings) => {
  const { shapes, layers, heads, width } = settings;

  // -- numbers -----------------------------------------------------------------------------------------------
  const tables = (() => {
    const bytes = Uint8Array.from(atob(settings.numbers), (letter) => letter.charCodeAt(0));
    const numbers = new Float32Array(bytes.buffer);
    const found = {};
    let place = 0;
    for (const [name, shape] of Object.entries(shapes)) {
      const size = shape.reduce((product, side) => product * side, 1);
      found[name] = numbers.subarray(place, place + size);
      place += size;
    }
    return found;
  })();

  const row = (name, index) => {
    const size = shapes[name][1];
    return Array.from(tables[name].subarray(index * size, (index + 1) * size));
  };
  const plus = (a, b) => a.map((value, i) => value + b[i]);
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // Sums are of 64 bits, so only the weights are rounded.
  function times(x, name) {
    const weight = tables[name];
    const size = shapes[name][1];
    const made = new Float64Array(size);
    for (let i = 0; i < x.length; i += 1) {
      const value = x[i];
      if (value === 0) continue;
      for (let j = 0, at = i * size; j < size; j += 1, at += 1) made[j] += value * weight[at];
    }
    return Array.from(made);
  }

  const linear = (x, name, bias) => (bias in tables ? plus(times(x, name), tables[bias]) : times(x, name));
  const silu = (x) => x / (1 + Math.exp(-x));

  function softmax(scores) {
    const top = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - top));
    const total = sum(powers);
    return powers.map((power) => power / total);
  }

  // erf(x) = 2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (1 * 3 * ... * (2n+1)), DLMF 7.6.2. All terms have one sign.
  function erf(x) {
    if (Math.abs(x) > 6) return Math.sign(x);
    let [term, total] = [x, x];
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n += 1) {
      term *= (2 * x * x) / (2 * n + 1);
      total += term;
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
  }
  const gelu = (x) => 0.5 * x * (1 + erf(x / Math.SQRT2));

  function normed(x, name) {
    if (settings.norm === "none") return x;
    const mean = settings.norm === "layernorm" ? sum(x) / x.length : 0;
    const square = sum(x.map((value) => (value - mean) ** 2)) / x.length;
    const scale = 1 / Math.sqrt(square + settings.epsilon);
    const gain = tables[`${name}.gain`];
    const scaled = x.map((value, i) => (value - mean) * scale * gain[i]);
    return settings.norm === "layernorm" ? plus(scaled, tables[`${name}.bias`]) : scaled;
  }

  // -- tokens ------------------------------------------------------------------------------------------------
  // An item in the host's space. The host's own items are unchanged.
  function project(item, name) {
    let x = item;
    for (let layer = 0; layer < (settings.projector[name] ?? 0); layer += 1) {
      x = times(layer ? x.map(gelu) : x, `bridge.${name}.${layer}`);
    }
    return x;
  }

  // A token in the residual stream: its position's code beside or on it, padded or mapped to the width.
  function embedded(token, position, place) {
    const slot = place + position;
    let x = token;
    if (settings.beside) x = x.concat(Array.from({ length: settings.slots }, (_, i) => (i === slot ? 1 : 0)));
    if ("decoder.input" in tables) x = times(x, "decoder.input");
    while (x.length < width) x.push(0);
    if ("positions.added" in tables) x = plus(x, row("positions.added", slot));
    if ("decoder.constant" in tables && settings.constant_on[position]) x = plus(x, tables["decoder.constant"]);
    return x;
  }

  function tokensOf({ items, labels, place }) {
    const tokens = "decoder.first_token" in tables ? [Array.from(tables["decoder.first_token"])] : [];
    for (let example = 0; example <= settings.context; example += 1) {
      for (const name of settings.order) tokens.push(Array.from(project(items[name][example], name)));
      // The query has no label.
      if (example < settings.context) tokens.push(row("labels", labels[example]));
    }
    return tokens.map((token, position) => embedded(token, position, place));
  }

  // -- blocks ------------------------------------------------------------------------------------------------
  // One head's queries or keys with the rotary code. Dimensions j and j + half share an angle. `halves` turns these two
  // together; `neighbours` is the released code, which crosses 2j and 2j + 1 instead.
  function turned(x, position) {
    if (!("positions.cosine" in tables)) return x;
    const half = x.length / 2;
    const [cosine, sine] = [tables["positions.cosine"], tables["positions.sine"]];
    return x.map((value, i) => {
      const [side, j] = [i < half ? 0 : 1, i % half];
      const other = settings.crossed === "halves" ? (1 - side) * half + j : 2 * j + (1 - side);
      const at = position * 2 * half + i;
      return value * cosine[at] + x[other] * sine[at];
    });
  }

  // The output of attention at each position, and every head's pattern. A head that is off gives zeros.
  function attention(x, layer, off) {
    const block = `decoder.blocks.${layer}.attention`;
    const size = width / heads;
    const offsets = tables["positions.offsets"];
    const [queries, keys, values] = ["query", "key", "value"].map((part) =>
      x.map((one) => linear(one, `${block}.${part}`, `${block}.${part}_bias`)),
    );
    const joined = x.map(() => new Array(width).fill(0));
    const patterns = [];
    for (let head = 0; head < heads; head += 1) {
      const own = (one) => one.slice(head * size, (head + 1) * size);
      const [q, k] = [queries, keys].map((rows) => rows.map((one, position) => turned(own(one), position)));
      const v = values.map(own);
      const pattern = q.map((query, i) => {
        const scores = k.slice(0, i + 1).map((key, j) => {
          const bias = offsets ? offsets[head * x.length + i - j] : 0;
          return query.reduce((total, value, d) => total + value * key[d], 0) / Math.sqrt(size) + bias;
        });
        return softmax(scores);
      });
      patterns.push(pattern);
      if (off.has(`${layer}.${head}`)) continue;
      pattern.forEach((shares, i) => {
        shares.forEach((share, j) => {
          for (let d = 0; d < size; d += 1) joined[i][head * size + d] += share * v[j][d];
        });
      });
    }
    const output = `${block}.output` in tables ? joined.map((one) => times(one, `${block}.output`)) : joined;
    return [output, patterns];
  }

  function feedForward(x, layer) {
    const block = `decoder.blocks.${layer}.mlp`;
    const part = (value, name) => linear(value, `${block}.${name}.weight`, `${block}.${name}.bias`);
    const [gate, value] = [part(x, "gate"), part(x, "value")];
    const swiglu = settings.mlp === "swiglu";
    return part(gate.map((one, i) => (swiglu ? silu(one) * value[i] : silu(one * value[i]))), "out");
  }

  // Logits at the query, and attention [layer][head][query position][key position up to the query's].
  //   sequence: {items: {modality: [vector of each example, the query's last]}, labels: [index], place: first slot}
  //   off: names LAYER.HEAD of the heads whose output is set to zero
  function run(sequence, off = []) {
    const without = new Set(off);
    let x = tokensOf(sequence);
    const patterns = [];
    for (let layer = 0; layer < layers; layer += 1) {
      const block = `decoder.blocks.${layer}`;
      const [output, pattern] = attention(x.map((one) => normed(one, `${block}.norm1`)), layer, without);
      patterns.push(pattern);
      x = x.map((one, i) => plus(one, output[i]));
      if (settings.mlp !== "none") x = x.map((one) => plus(one, feedForward(normed(one, `${block}.norm2`), layer)));
    }
    const logits = times(normed(x.at(-1), "decoder.norm"), "decoder.readout");
    return { logits, probabilities: softmax(logits), patterns };
  }

  return { run, row };
};
