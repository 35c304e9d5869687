// Rate-distortion curves of all SAEs of a site, and bits against width and L0 at one tolerance.

const GAUSSIAN = "R(D) of a Gaussian with the data's covariance: a reference, no bound";
const FIXED_LENGTH = 'fixed-length code';
const HULL_OF_ALL = 'hull of all SAEs shown';

/** How what is no SAE is drawn, in the colours of now. */
function referenceLooks() {
  return [
    { kind: HULL_OF_ALL, colour: COLOURS.hull, width: 2.6, dash: [] },
    { kind: GAUSSIAN, colour: COLOURS.ink, width: 1.6, dash: [9, 3, 2, 3] },
    { kind: FIXED_LENGTH, colour: COLOURS.quiet, width: 1.4, dash: [2, 3] },
    { kind: 'baselines: fitted, not trained', colour: COLOURS.ink, width: 1.8, dash: [] },
  ];
}

/** The chart of one loss against bits per token. */
function curvesChart() {
  const [site, metric] = [currentSite(), currentMetric()];
  const { rates, losses } = site.view;
  const shown = site.saes.filter(passes);
  return {
    title: curvesTitle(),
    x: { label: 'rate (bits per token)', log: state.logRate, range: rangeOf(rates, state.logRate) },
    y: { label: METRICS[metric].label, log: state.logLoss, range: rangeOf(losses[metric], state.logLoss) },
    lines: [
      ...referenceLines(site, metric),
      ...shown.map((sae) => curveLine(sae, site, metric)),
      ...hullLines(shown, metric),
    ],
    rules: toleranceRules(site, metric),
    pick: select,
  };
}

function curvesTitle() {
  const { metric, epsilon } = currentTable();
  const name = METRICS[currentMetric()].name;
  return state.metric ? `Rate and ${name}; the suite has no ε on it` : `Rate and ${name}, ε = ${epsilon}${METRICS[metric].unit}`;
}

function rangeOf({ linear, log }, isLog) {
  return isLog ? log : linear;
}

function curveLine(sae, site, metric) {
  const { points } = sae;
  return {
    ...looksOf(sae),
    id: sae.id,
    kind: sae.baseline ? sae.label : sae.architecture,
    name: sae.label,
    pale: state.families && !sae.baseline,
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

/** Tolerances on the loss; on another squared error, where the chosen one is on this. */
function toleranceRules(site, metric) {
  const tables = site.tables.filter((table) => table.metric === metric);
  if (tables.length) return tables.map(toleranceRule);
  const { [metric]: wanted, [currentTable().metric]: given } = site.references.of_mse;
  if (wanted === undefined || given === undefined || !given) return [];
  return [{ y: (currentTable().epsilon * wanted) / given, label: limitName(currentTable()), strong: true }];
}

function toleranceRule(table) {
  return { y: table.epsilon, label: `ε = ${table.epsilon}`, strong: table === currentTable() };
}

/** The Gaussian and the fixed-length code, for distortions that are squared errors. */
function referenceLines(site, metric) {
  const { gaussian, dense, of_mse: { [metric]: unit } } = site.references;
  if (unit === undefined) return [];
  const line = (points, kind, extra) => ({
    xs: points.map(([bits]) => bits),
    ys: points.map(([, mse]) => mse * unit),
    tip: (i) => [kind, `${fixed(points[i][0], 1)} bits/token`, lossText(points[i][1] * unit, metric)],
    ...referenceLooks().find((looks) => looks.kind === kind),
    ...extra,
  });
  return [line(gaussian, GAUSSIAN, {}), line(dense, FIXED_LENGTH, { symbol: SYMBOLS[1] })];
}

/** From 0, or from below the smallest value where that is far from 0. */
function around(values) {
  const [low, high] = [Math.min(...values), Math.max(...values, 1)];
  return [low > 0.4 * high && low < high ? 0.75 * low : 0, 1.1 * high];
}

/** Bits at the chosen tolerance against a property of the SAEs. */
function bitsChart(title, axis, valueOf) {
  const rows = rowsOf(currentTable(), currentSite())
    .filter((row) => row.bits !== null && passes(row.sae) && valueOf(row) > 0);
  const tops = rows.filter((row) => !row.sae.baseline);
  const bits = (tops.length ? tops : rows).flatMap((row) => [row.bits_low, row.bits_high]);
  const values = rows.map(valueOf);
  const [low, high] = extent(values);
  return {
    title: `Bits at ${limitName(currentTable())} against ${title}`,
    x: { ...axis, log: true, range: [low / 1.25, high * 1.25] },
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
    kind: row.sae.baseline ? row.sae.label : row.sae.architecture,
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

function widthsChart() {
  const axis = { label: 'width: latents in the dictionary', ticks: powersOfTwo };
  return bitsChart('width', axis, (row) => row.sae.latents);
}

function l0sChart() {
  return bitsChart('L0', { label: 'L0: nonzero symbols per token' }, (row) => row.l0);
}

function addPlots() {
  const curves = new Plot(byId('curves'), 'Rate-distortion curves of all SAEs shown', 'curves');
  const widths = new Plot(byId('widths'), 'Bits per token against width', 'width');
  const l0s = new Plot(byId('l0s'), 'Bits per token against L0', 'l0');
  view([], explainReferences);
  view([...SHOWN_BY, 'metric', 'logLoss', 'logRate', 'families'], () => {
    curves.show(curvesChart);
    byId('curves-title').textContent = curves.chart.title;
    describe(byId('curves'), curves.chart);
  });
  view(SHOWN_BY, () => {
    widths.show(widthsChart);
    l0s.show(l0sChart);
    byId('bits-title').textContent = `Bits at ${limitName(currentTable())} against width and L0`;
  });
  view(['selected', 'pins'], () => {
    for (const plot of [curves, widths, l0s]) plot.follow(followed());
    byId('curves').dataset.highlighted = state.selected ?? '';
  });
  offerAxes();
}

function explainReferences() {
  byId('references').replaceChildren(...referenceLooks().map((looks) =>
    element('span', {}, lineOf(looks), looks.kind)));
}

/** What the plot shows, readable from outside of it. */
function describe(host, chart) {
  Object.assign(host.dataset, {
    metric: currentMetric(),
    xAxis: chart.x.log ? 'log' : 'linear',
    yAxis: chart.y.log ? 'log' : 'linear',
    curves: chart.lines.filter((line) => line.id).length,
    hulls: chart.lines.filter((line) => line.path).map((line) => line.kind).join(', '),
  });
}

/** Buttons for one key of the state; they stay, and so does the focus on them. */
function offerChoice(id, keys, options, chosen, choose) {
  const press = choice(byId(id), options, choose);
  view(keys, () => press(chosen()));
}

function offerAxes() {
  const scales = [[false, 'linear'], [true, 'log']];
  const names = Object.entries(METRICS).map(([metric, { name }]) => [metric, name]);
  offerChoice('metric', ['site', 'table', 'metric'], names, currentMetric, showMetric);
  offerChoice('loss-axis', ['logLoss'], scales, () => state.logLoss, (logLoss) => update({ logLoss }));
  offerChoice('rate-axis', ['logRate'], scales, () => state.logRate, (logRate) => update({ logRate }));
  const hulls = [[false, 'of all'], [true, 'of families']];
  offerChoice('hulls', ['families'], hulls, () => state.families, (families) => update({ families }));
}

/** A loss on all panels: at the tolerance in the same place among those on it, if there are any. */
function showMetric(metric) {
  const { tables } = currentSite();
  const found = tables.filter((table) => table.metric === metric);
  if (!found.length) {
    update({ metric });
    return;
  }
  if (metric === currentTable().metric) {
    update({ metric: null });
    return;
  }
  const place = tables.filter((table) => table.metric === currentTable().metric).indexOf(currentTable());
  update({ table: tables.indexOf(found[Math.min(place, found.length - 1)]), metric: null });
}
