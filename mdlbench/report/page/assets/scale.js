// Axes: values to pixels, and where the ticks are.

/** Values to pixels, with its inverse and its ticks. What has no logarithm lies far outside. */
function scale([low, high], log, start, length, ticksOf = log ? logTicks : linearTicks) {
  const forward = log ? (value) => Math.log(Math.max(value, 1e-12)) : (value) => value;
  const [from, to] = [forward(low), forward(high)];
  const pixels = (value) => start + (length * (forward(value) - from)) / (to - from || 1);
  pixels.inverse = (pixel) => {
    const value = from + ((pixel - start) * (to - from)) / length;
    return log ? Math.exp(value) : value;
  };
  pixels.ticks = ticksOf(low, high);
  return pixels;
}

/** How long a range is: what equal lengths on the axis have in common. */
function spanOf([low, high], log) {
  return log ? Math.log(high / low) : high - low;
}

function linearTicks(low, high, n = 6) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((size) => size >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  if (decades < 0.5) return linearTicks(low, high).filter((tick) => tick > 0);
  const mantissas = decades < 1.5 ? [1, 1.5, 2, 3, 5, 7] : decades < 3 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    ticks.push(...mantissas.map((mantissa) => mantissa * 10 ** power));
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/** Powers of two, as widths of dictionaries are. */
function powersOfTwo(low, high) {
  const ticks = [];
  for (let power = Math.ceil(Math.log2(low)); 2 ** power <= high; power += 1) ticks.push(2 ** power);
  return ticks.length ? ticks : logTicks(low, high);
}

/** Those ticks whose texts do not run into each other. */
function apart(ticks, axis, least) {
  const kept = [];
  for (const tick of ticks) {
    if (!kept.length || Math.abs(axis(tick) - axis(kept.at(-1))) >= least) kept.push(tick);
  }
  return kept;
}

function tickText(value, axis) {
  return axis.text ? axis.text(value) : String(Number(value.toPrecision(6))).replaceAll('-', '−');
}
