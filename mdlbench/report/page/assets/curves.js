// Rate-distortion curves of all SAEs of a site, and bits against width and L0 at one tolerance.

const REFERENCES = {
  gaussian: {
    name: "R(D) of a Gaussian with the data's covariance: a reference, no bound",
    colour: INK,
    width: 1.6,
    dash: [9, 3, 2, 3],
  },
  dense: { name: 'fixed-length code', colour: FAINT, width: 1.4, dash: [2, 3] },
  baselines: { name: 'baselines: fitted, not trained', colour: INK, width: 1.8, dash: [] },
};

/** The chart of one distortion against bits per token. */
function curvesChart() {
  const [site, metric] = [currentSite(), state.metric];
  const { rates, losses } = site.view;
  const shown = site.saes.filter(passes);
  return {
    x: { label: 'rate (bits per token)', log: state.logRate, range: rangeOf(rates, state.logRate) },
    y: { label: METRICS[metric].label, log: state.logLoss, range: rangeOf(losses[metric], state.logLoss) },
    lines: [...referenceLines(site, metric), ...shown.map((sae) => curveLine(sae, site, metric))],
    rules: site.tables.filter((table) => table.metric === metric).map(toleranceRule),
    pick: select,
  };
}

function rangeOf({ linear, log }, isLog) {
  return isLog ? log : linear;
}

function curveLine(sae, site, metric) {
  const { points } = sae;
  return {
    ...looksOf(sae),
    id: sae.id,
    xs: points.bits,
    ys: points[metric],
    marks: acceptedPoints(sae, site, metric),
    tip: (i) => [
      sae.label,
      `step ${significant(points.step[i])} · L0 ${fixed(points.l0[i], 2)}`,
      `${fixed(points.bits[i], 2)} bits/token`,
      `${METRICS[metric].name} ${lossText(points[metric][i], metric)}${METRICS[metric].unit}`,
    ],
  };
}

/** Where among its points the tolerances of a metric put the SAE; the chosen one if it has none. */
function acceptedPoints(sae, site, metric) {
  const tables = site.tables.filter((table) => table.metric === metric);
  return pointsAt(tables.length ? tables : [currentTable()], sae, site);
}

function pointsAt(tables, sae, site) {
  const points = tables.map((table) => rowOf(table, sae, site).point);
  return points.filter((point) => point !== null);
}

function toleranceRule(table) {
  return { y: table.epsilon, label: `ε = ${table.epsilon}`, strong: table === currentTable() };
}

/** The Gaussian and the fixed-length code, for distortions that are squared errors. */
function referenceLines(site, metric) {
  const { gaussian, dense, of_mse: { [metric]: unit } } = site.references;
  if (unit === undefined) return [];
  const line = (points, name, looks) => ({
    xs: points.map(([bits]) => bits),
    ys: points.map(([, mse]) => mse * unit),
    tip: (i) => [name, `${fixed(points[i][0], 1)} bits/token`, lossText(points[i][1] * unit, metric)],
    ...looks,
  });
  return [
    line(gaussian, REFERENCES.gaussian.name, REFERENCES.gaussian),
    line(dense, REFERENCES.dense.name, { ...REFERENCES.dense, symbol: SYMBOLS[1] }),
  ];
}

/** From 0, or from below the smallest value where that is far from 0. */
function around(values) {
  const [low, high] = [Math.min(...values), Math.max(...values, 1)];
  return [low > 0.4 * high && low < high ? 0.75 * low : 0, 1.1 * high];
}

/** Bits at the chosen tolerance against a property of the SAEs. */
function bitsChart(label, valueOf) {
  const rows = rowsOf(currentTable(), currentSite())
    .filter((row) => row.bits !== null && passes(row.sae) && valueOf(row) > 0);
  const tops = rows.filter((row) => !row.sae.baseline);
  const bits = (tops.length ? tops : rows).flatMap((row) => [row.bits_low, row.bits_high]);
  const values = rows.map(valueOf);
  const [low, high] = extent(values);
  return {
    x: { label, log: true, range: [low / 1.25, high * 1.25] },
    y: { label: 'bits per token', log: false, range: around(bits) },
    lines: [],
    dots: rows.map((row) => bitsDot(row, valueOf(row))),
    pick: select,
  };
}

function bitsDot(row, value) {
  return {
    ...looksOf(row.sae),
    id: row.sae.id,
    x: value,
    y: row.bits,
    low: row.bits_low,
    high: row.bits_high,
    tip: () => [
      row.sae.label,
      `${row.sae.latents} latents · L0 ${fixed(row.l0, 2)}`,
      `${fixed(row.bits, 2)} bits/token ${interval(row.bits_low, row.bits_high)}`,
    ],
  };
}

function addPlots() {
  const curves = new Plot(byId('curves'), 'Rate-distortion curves of all SAEs shown');
  const widths = new Plot(byId('widths'), 'Bits per token against width');
  const l0s = new Plot(byId('l0s'), 'Bits per token against L0');
  const plots = [curves, widths, l0s];
  explainReferences();
  view([...SHOWN_BY, 'metric', 'logLoss', 'logRate'], () => {
    curves.show(curvesChart());
    describe(byId('curves'), curves.chart);
  });
  view(SHOWN_BY, () => {
    widths.show(bitsChart('width: latents in the dictionary', (row) => row.sae.latents));
    l0s.show(bitsChart('L0: nonzero symbols per token', (row) => row.l0));
  });
  view(['selected'], () => {
    for (const plot of plots) plot.highlight(state.selected);
    byId('curves').dataset.highlighted = state.selected ?? '';
  });
  offerAxes();
}

function explainReferences() {
  byId('references').replaceChildren(...Object.values(REFERENCES).map((reference) =>
    element('span', {}, lineOf(reference), reference.name)));
}

/** What the plot shows, readable from outside of it. */
function describe(host, chart) {
  Object.assign(host.dataset, {
    metric: state.metric,
    xAxis: chart.x.log ? 'log' : 'linear',
    yAxis: chart.y.log ? 'log' : 'linear',
    curves: chart.lines.filter((line) => line.id).length,
  });
}

/** Buttons for one key of the state; they stay, and so does the focus on them. */
function offerChoice(id, key, options) {
  const press = choice(byId(id), options, (value) => update({ [key]: value }));
  view([key], () => press(state[key]));
}

function offerAxes() {
  const scales = [[false, 'linear'], [true, 'log']];
  const names = Object.entries(METRICS).map(([metric, { name }]) => [metric, name]);
  offerChoice('metric', 'metric', names);
  offerChoice('loss-axis', 'logLoss', scales);
  offerChoice('rate-axis', 'logRate', scales);
}
