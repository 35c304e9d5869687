// The view in the page's address: what is chosen, and nothing else. What it does not know, it says.

const ID_SHOWN = 12;
const ID_LEAST = 8;
const IGNORED_SHOWN = 80;
const KIND_KEYS = { architecture: 'architectures', quantiser: 'quantisers', status: 'standings' };

/**
 * One entry a key of the address: `write` gives its values, none for the default; `read` puts one
 * into the view and says whether it made sense.
 */
const ADDRESS = {
  site: { write: () => (state.site ? [state.site] : []), read: (found, text) => Number(text) === found.site },
  at: { write: writeTolerance, read: readTolerance },
  metric: { write: () => [state.metric].filter(Boolean), read: readMetric },
  loss: axis('logLoss'),
  rate: axis('logRate'),
  hulls: { write: () => (state.families ? ['families'] : []), read: readHulls },
  filter: { write: () => [state.text].filter(Boolean), read: (found, text) => put(found, 'text', text) },
  ...Object.fromEntries(Object.entries(KIND_KEYS).map(([key, kind]) => [key, kindPart(kind)])),
  sort: { write: writeSort, read: readSort },
  sae: { write: () => shortIds([state.selected]), read: readSelected },
  pins: { write: () => [shortIds(state.pins).join(',')].filter(Boolean), read: readPins },
};

function put(found, key, value) {
  found[key] = value;
  return true;
}

function axis(key) {
  const usual = startAt(0)[key];
  const name = (log) => (log ? 'log' : 'linear');
  return {
    write: () => (state[key] === usual ? [] : [name(state[key])]),
    read: (found, text) => [true, false].some((log) => text === name(log) && put(found, key, log)),
  };
}

function writeTolerance() {
  const { metric, epsilon, headline } = currentTable();
  return headline ? [] : [`${metric}:${epsilon}`];
}

function readTolerance(found, text) {
  const { tables } = page.sites[found.site];
  const table = tables.findIndex(({ metric, epsilon }) => `${metric}:${epsilon}` === text);
  return table >= 0 && put(found, 'table', table);
}

/** A loss without a tolerance; one with a tolerance is said by `at`. */
function readMetric(found, text) {
  const { tables } = page.sites[found.site];
  const isFree = Object.hasOwn(METRICS, text) && tables.every(({ metric }) => metric !== text);
  return isFree && put(found, 'metric', text);
}

function readHulls(found, text) {
  return text === 'families' && put(found, 'families', true);
}

function kindPart(kind) {
  const read = { architectures: (sae) => sae.architecture, quantisers: quantiserOf, standings: (sae) => sae.standing };
  return {
    write: () => inOrder(state[kind]),
    read: (found, text) => {
      const isKnown = page.sites[found.site].saes.some((sae) => read[kind](sae) === text);
      return isKnown && put(found, kind, new Set([...found[kind], text]));
    },
  };
}

function writeSort() {
  const { key, descending } = state.sort;
  return key === 'rank' && !descending ? [] : [`${descending ? '-' : ''}${key}`];
}

function readSort(found, text) {
  const key = text.replace(/^-/, '');
  const isColumn = COLUMNS.some((column) => column.key === key);
  return isColumn && put(found, 'sort', { key, descending: text.startsWith('-') });
}

function readSelected(found, text) {
  const id = wholeId(found.site, text);
  return Boolean(id) && put(found, 'selected', id);
}

function readPins(found, text) {
  const ids = text.split(',').map((start) => wholeId(found.site, start));
  put(found, 'pins', [...new Set(ids.filter(Boolean))].slice(0, MOST_PINS));
  return ids.every(Boolean) && ids.length <= MOST_PINS;
}

/** As much of each id as no other of the site begins with. */
function shortIds(ids) {
  const { saes } = currentSite();
  return ids.filter(Boolean).map((id) => {
    const isShared = saes.some((sae) => sae.id !== id && sae.id.startsWith(id.slice(0, ID_SHOWN)));
    return isShared ? id : id.slice(0, ID_SHOWN);
  });
}

/** The one id of the site that begins so; null where none or several do. */
function wholeId(site, start) {
  const found = page.sites[site].saes.filter((sae) => sae.id.startsWith(start));
  return start.length >= ID_LEAST && found.length === 1 ? found[0].id : null;
}

/** The state as a fragment; empty for what a page shows by itself. */
function addressOf() {
  const parts = new URLSearchParams();
  for (const [key, { write }] of Object.entries(ADDRESS)) {
    for (const value of write()) parts.append(key, value);
  }
  const text = String(parts).replaceAll('%3A', ':').replaceAll('%2C', ',');
  return text ? `#${text}` : '';
}

/** What a fragment asks for, and those of its parts that make no sense here. */
function readAddress(fragment) {
  const wanted = new URLSearchParams(fragment.replace(/^#/, ''));
  const found = startAt(siteIn(wanted));
  const ignored = [...wanted]
    .filter(([key, text]) => !(Object.hasOwn(ADDRESS, key) && ADDRESS[key].read(found, text)))
    .map(([key, text]) => (text ? `${key}=${text}` : key));
  return { found, ignored };
}

/** The site that it names, or has the SAE that it names. */
function siteIn(wanted) {
  const named = Number(wanted.get('site') ?? NaN);
  if (named in page.sites) return named;
  const id = wanted.get('sae') ?? '';
  return Math.max(0, page.sites.findIndex((_, site) => wholeId(site, id)));
}

/** Whether a fragment is a place on the page and no view of it. */
function isPlace(fragment) {
  return fragment.length > 1 && !fragment.includes('=') && byId(fragment.slice(1)) !== null;
}

function showAddress() {
  if (isPlace(location.hash)) return;
  const { found, ignored } = readAddress(location.hash);
  change(found);
  sayIgnored(ignored);
}

function sayIgnored(parts) {
  say(parts.length ? `Not understood in the address, and ignored: ${inert(parts.join(', '))}` : '');
}

/** Without what could change how the rest of a line is read. */
function inert(text) {
  const clean = text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '�');
  return clean.length > IGNORED_SHOWN ? `${clean.slice(0, IGNORED_SHOWN)}…` : clean;
}

let isTyping = false; // whether the last change was to the filter

/** The address of what is shown, as a step that one can go back from; what is typed is one step. */
function writeAddress(changed) {
  if (!changed.length) return;
  const address = addressOf() || location.pathname + location.search;
  const goesOn = isTyping && changed.every((key) => key === 'text');
  isTyping = changed.every((key) => key === 'text');
  history[goesOn ? 'replaceState' : 'pushState']({ view: true }, '', address);
}

/** Back and forward; and what is typed into the address, which has no state of ours. */
function followAddress() {
  history.replaceState({ view: true }, '', location.href);
  addEventListener('popstate', (event) => {
    isTyping = false;
    showAddress();
    if (!event.state && state.selected) showDetail();
  });
}

async function copyLink() {
  const link = location.href.split('#')[0] + addressOf();
  try {
    await navigator.clipboard.writeText(link);
    say('The link is copied.');
  } catch {
    history.replaceState({ view: true }, '', link);
    say('The clipboard is closed to this page; the link is in the address bar.');
  }
}

/** What the address asks for when the page is opened. */
function startView() {
  const { found, ignored } = readAddress(isPlace(location.hash) ? '' : location.hash);
  Object.assign(state, found);
  renderAll();
  sayIgnored(ignored);
}
