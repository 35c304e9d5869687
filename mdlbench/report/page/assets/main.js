// What holds the page together: the keys that work everywhere, links within it, and the start.

/** What just happened, in words; the next change takes it away. */
function say(words) {
  byId('note').textContent = words;
}

function showPlace(id) {
  byId(id).scrollIntoView({ block: 'start' });
  byId(id).querySelector('[tabindex="-1"]').focus({ preventScroll: true });
}

function showDetail() {
  showPlace('detail');
}

function showDetailOf(id) {
  select(id);
  showDetail();
}

/** Links within the page lead there and leave the address as it is: it holds the view. */
function followLinks() {
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener('click', (event) => {
      event.preventDefault();
      showPlace(link.hash.slice(1));
    });
  }
}

/** "/" leads to the filter; Escape takes back what was typed there, or the selection. */
function onKey(event) {
  const { target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyped = target.matches('input[type="search"], select');
  if (event.key === '/' && !isTyped) {
    event.preventDefault();
    byId('filter').focus();
    byId('filter').select();
  } else if (event.key === 'Escape') {
    escape(target);
  }
}

function escape(target) {
  if (target === byId('filter') && state.text) {
    update({ text: '' });
  } else if (target === byId('filter')) {
    target.blur();
  } else if (byId('note').textContent) {
    say('');
  } else if (state.selected) {
    clearSelection();
  }
}

/** The focus goes back to where the selection was made from. */
function clearSelection() {
  const row = document.querySelector('.ranking tr[aria-current="true"] .name');
  select(null);
  row?.focus({ preventScroll: true });
}

function start() {
  addControls();
  addTable();
  addPlots();
  addBeside();
  addDetail();
  arrange();
  startView();
  if (state.selected) showDetail();
  followAddress();
  followLinks();
  followColours();
  NARROW.addEventListener('change', arrange);
  addEventListener('keydown', onKey);
  byId('copy-link').addEventListener('click', copyLink);
  byId('show-detail').addEventListener('click', showDetail);
  byId('show-beside').addEventListener('click', () => showPlace('beside'));
  byId('pin-selected').addEventListener('click', () => togglePin(state.selected));
  byId('clear').addEventListener('click', clearSelection);
  document.documentElement.dataset.ready = 'true';
}

start();
