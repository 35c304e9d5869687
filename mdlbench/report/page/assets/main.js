// From the address to what is shown, and back.

const ADDRESSED = ['site', 'sae', 'at'];

/** Whether the hash says what to show, an empty one the default, or leads to a place on the page. */
function isAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  return !location.hash || ADDRESSED.some((name) => wanted.has(name));
}

function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const id = wanted.get('sae');
  const found = page.sites.findIndex((site) => site.saes.some((sae) => sae.id === id));
  const site = found >= 0 ? found : siteOf(wanted.get('site'));
  const { tables } = page.sites[site];
  const at = tables.findIndex((table) => `${table.metric}:${table.epsilon}` === wanted.get('at'));
  const table = at >= 0 ? at : headlineOf(page.sites[site]);
  return { site, table, metric: tables[table].metric, selected: found >= 0 ? id : null };
}

function siteOf(text) {
  const site = Number(text);
  return site in page.sites ? site : 0;
}

function writeAddress() {
  const { metric, epsilon, headline } = currentTable();
  const parts = [
    state.site && `site=${state.site}`,
    state.selected && `sae=${state.selected}`,
    !headline && `at=${metric}:${epsilon}`,
  ].filter(Boolean);
  history.replaceState(null, '', parts.length ? `#${parts.join('&')}` : location.pathname + location.search);
}

function showDetail() {
  byId('detail').scrollIntoView({ block: 'start' });
  byId('detail-title')?.focus({ preventScroll: true });
}

function start() {
  addControls();
  addTable();
  addPlots();
  addDetail();
  Object.assign(state, readAddress());
  renderAll();
  if (state.selected) showDetail();
  view(['selected', 'table', 'site'], writeAddress);
  byId('show-detail').addEventListener('click', showDetail);
  byId('clear').addEventListener('click', () => select(null));
  addEventListener('hashchange', () => {
    if (!isAddress()) return;
    update(readAddress());
    if (state.selected) showDetail();
  });
  document.documentElement.dataset.ready = 'true';
}

start();
