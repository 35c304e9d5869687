// The page's data, what is chosen on it, and numbers in words.

const page = JSON.parse(document.getElementById('data').textContent);

const METRICS = Object.fromEntries(page.metrics.map((metric) => [metric.key, metric]));
const STANDINGS = {
  reproduced: 'measured again elsewhere or later, and within what the suite allows',
  submitted: 'not measured again yet',
};
const ABSENT = '–';
const WHOLE = new Intl.NumberFormat('en-GB');
const MOST_PINS = 4;

const state = startAt(0);
// Parts of the state that decide which SAEs are shown, and at which tolerance.
const SHOWN_BY = ['site', 'table', 'text', 'architectures', 'quantisers', 'standings'];
const views = [];

/**
 * What is shown of a site before anything is chosen. `metric` is a loss that the suite has no
 * tolerance on, where one is looked at.
 */
function startAt(site) {
  return {
    site,
    table: headlineOf(page.sites[site]),
    metric: null,
    logLoss: true,
    logRate: false,
    families: false,
    text: '',
    architectures: new Set(),
    quantisers: new Set(),
    standings: new Set(),
    sort: { key: 'rank', descending: false },
    selected: null,
    pins: [],
  };
}

/** Have `render` called whenever one of these parts of the state changes. */
function view(keys, render) {
  views.push({ keys, render });
}

/** Changes the state and all that shows it; returns the keys that changed. */
function change(wanted) {
  const changed = Object.keys(wanted).filter((key) => state[key] !== wanted[key]);
  Object.assign(state, wanted);
  for (const { keys, render } of views) {
    if (keys.some((key) => changed.includes(key))) render();
  }
  return changed;
}

/** A change that somebody made on the page: the address follows. */
function update(wanted) {
  say('');
  writeAddress(change(wanted));
}

function renderAll() {
  for (const { render } of views) render();
}

function currentSite() {
  return page.sites[state.site];
}

function currentTable() {
  return currentSite().tables[state.table];
}

/** The loss that curves are drawn over. */
function currentMetric() {
  return state.metric ?? currentTable().metric;
}

function headlineOf(site) {
  return site.tables.findIndex((table) => table.headline);
}

function limitName(table) {
  const metric = METRICS[table.metric];
  return `${metric.name} ≤ ${table.epsilon}${metric.unit}`;
}

/** Rows of a table, each with its SAE, in the order of the ranking. */
function rowsOf(table, site) {
  const names = Object.keys(table.columns);
  table.rows ??= table.columns.sae.map((position, i) => {
    const row = Object.fromEntries(names.map((name) => [name, table.columns[name][i]]));
    return { ...row, sae: site.saes[position] };
  });
  return table.rows;
}

/** The row of one SAE. */
function rowOf(table, sae, site) {
  table.rowOf ??= new Map(rowsOf(table, site).map((row) => [row.sae, row]));
  return table.rowOf.get(sae);
}

function quantiserOf(sae) {
  return sae.quantiser ?? page.quantiser ?? "the suite's own";
}

function passes(sae) {
  const { architectures, quantisers, standings, text } = state;
  const inText = `${sae.label} ${sae.architecture}`.toLowerCase().includes(text.toLowerCase());
  const inArchitectures = !architectures.size || architectures.has(sae.architecture);
  const inQuantisers = !quantisers.size || quantisers.has(quantiserOf(sae));
  const inStandings = !standings.size || standings.has(sae.standing);
  return inText && inArchitectures && inQuantisers && inStandings;
}

function saeOf(id) {
  return currentSite().saes.find((sae) => sae.id === id) ?? null;
}

/** Ids of the SAEs that stand out in the plots: the selected one, and those that are pinned. */
function followed() {
  return new Set([state.selected, ...state.pins].filter(Boolean));
}

function inOrder(values) {
  return [...new Set(values)].sort();
}

function fixed(value, digits) {
  return value === null ? ABSENT : value.toFixed(digits).replaceAll('-', '−');
}

function signed(value, digits) {
  return (value > 0 ? '+' : '') + fixed(value, digits);
}

function significant(value, digits = 4) {
  return value === null ? ABSENT : String(Number(value.toPrecision(digits))).replaceAll('-', '−');
}

/** A value of a metric, without its unit. */
function lossText(value, metric = currentTable().metric) {
  return significant(value, METRICS[metric].digits);
}

function share(value) {
  return `${(100 * value).toFixed(1)}%`;
}

function whole(value) {
  return WHOLE.format(value);
}

/** A large count with its SI prefix: 1.23 M. */
function prefixed(value) {
  if (value === null) return ABSENT;
  const [size, prefix] = [[1e9, ' G'], [1e6, ' M'], [1e3, ' k']].find(
    ([least]) => Math.abs(value) >= least,
  ) ?? [1, ''];
  return Number((value / size).toPrecision(3)) + prefix;
}

function interval(low, high) {
  return low === null || high === null ? '' : `[${fixed(low, 2)}, ${fixed(high, 2)}]`;
}
