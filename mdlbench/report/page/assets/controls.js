// What can be chosen: site, tolerance, filters.

const KINDS = ['architectures', 'quantisers', 'standings'];
const NARROW = matchMedia('(max-width: 640px)');

function addControls() {
  view(['site'], offerSites);
  view(['site', 'table'], offerTolerances);
  view(['site', 'architectures'], offerArchitectures);
  view(['site', 'quantisers'], offerQuantisers);
  view(['site', 'standings'], offerStandings);
  view(KINDS, countKinds);
  view(['text'], showText);
  byId('filter').addEventListener('input', (event) => update({ text: event.target.value.trim() }));
}

/** What was typed stays as it is; what an address says is put there. */
function showText() {
  if (byId('filter').value.trim() !== state.text) byId('filter').value = state.text;
}

function offerSites() {
  const options = page.sites.map((site, i) =>
    element('option', { value: String(i), selected: i === state.site }, site.label));
  byId('site').replaceChildren(...options);
  byId('site').onchange = (event) => showSite(Number(event.target.value));
  byId('sites').hidden = page.sites.length < 2;
  const { test_tokens: tokens, text, model } = currentSite();
  const source = [model, text].filter(Boolean).map((name) => `, ${name}`).join('');
  byId('measured').textContent = `${whole(tokens)} test tokens${source}`;
}

/** Another site starts without filters by kind, selection and pins: they may not be there. */
function showSite(site) {
  const { table, metric, selected, pins, architectures, quantisers, standings } = startAt(site);
  update({ site, table, metric, selected, pins, architectures, quantisers, standings });
}

function offerTolerances() {
  const groups = byMetric(currentSite().tables);
  byId('tolerances').replaceChildren(...[...groups].map(([metric, tables]) => element(
    'span',
    { class: 'group' },
    element('span', { class: 'group-name' }, `${METRICS[metric].name} ≤`),
    ...tables.map(toleranceOption),
  )));
  const { offsetLeft, offsetWidth } = byId('tolerances').querySelector('input:checked').parentElement;
  byId('tolerances').scrollLeft = offsetLeft - (byId('tolerances').clientWidth - offsetWidth) / 2;
}

function toleranceOption(table) {
  const position = currentSite().tables.indexOf(table);
  const remarks = [table.headline && "the suite's headline", table.tight && 'tight'].filter(Boolean);
  const title = remarks.length ? remarks.join(', ') : null;
  return element(
    'label',
    { title },
    element('input', {
      type: 'radio',
      name: 'tolerance',
      value: `${table.metric}:${table.epsilon}`,
      'aria-label': [limitName(table), ...remarks].join(', '),
      checked: position === state.table,
      onchange: () => showTolerance(position),
    }),
    element('span', {}, `${table.epsilon}${table.headline ? ' ★' : ''}${table.tight ? ' ⊢' : ''}`),
  );
}

/** The table at a tolerance; the curves follow with its metric. */
function showTolerance(table) {
  update({ table, metric: null });
  document.querySelector('#tolerances input:checked').focus();
}

function byMetric(tables) {
  const groups = new Map();
  for (const table of tables) groups.set(table.metric, [...(groups.get(table.metric) ?? []), table]);
  return groups;
}

function offerArchitectures() {
  const { saes } = currentSite();
  const looks = new Map(saes.map((sae) => [sae.architecture, looksOf(sae)]));
  offerChips('architectures', inOrder(looks.keys()), (name) => symbolOf({ ...looks.get(name), hollow: false }));
}

function offerQuantisers() {
  const names = inOrder(currentSite().saes.map(quantiserOf));
  byId('quantisers').parentElement.hidden = names.length < 2;
  offerChips('quantisers', names, (name) => lineOf({ colour: COLOURS.ink, width: 1.8, dash: dashOf(name) }));
}

function offerStandings() {
  const names = inOrder(currentSite().saes.map((sae) => sae.standing));
  byId('standings').parentElement.hidden = names.length < 2;
  offerChips('standings', names, () => null);
}

/** Chips of which any number is on; none on shows all. */
function offerChips(key, names, iconOf) {
  byId(key).replaceChildren(...names.map((name) => element(
    'button',
    {
      type: 'button',
      class: 'chip',
      'data-name': name,
      'aria-pressed': String(state[key].has(name)),
      onclick: () => toggle(key, name),
    },
    iconOf(name),
    name,
  )));
}

function toggle(key, name) {
  const chosen = new Set(state[key]);
  if (!chosen.delete(name)) chosen.add(name);
  update({ [key]: chosen });
  [...byId(key).children].find((chip) => chip.dataset.name === name).focus();
}

/** Where the chips are folded up, how many of them are on. */
function countKinds() {
  const n = KINDS.reduce((sum, key) => sum + state[key].size, 0);
  byId('kinds-on').textContent = n ? `: ${n} on` : '';
}

/** On a phone the ranking stands before the plots, and the chips are folded up. */
function arrange() {
  byId('kinds').open = !NARROW.matches;
  if (NARROW.matches) byId('plots').before(byId('ranking'));
  else byId('plots').after(byId('ranking'));
}
