// How SAEs look: a colour and a symbol for each architecture, a line for each quantiser.

const N_COLOURS = 7;
const SYMBOLS = [
  'M4 0A4 4 0 1 1 -4 0A4 4 0 1 1 4 0Z',
  'M-3.6 -3.6H3.6V3.6H-3.6Z',
  'M0 -4.6L4.4 3.4H-4.4Z',
  'M0 -5L5 0L0 5L-5 0Z',
  'M0 4.6L4.4 -3.4H-4.4Z',
  'M-1.5 -4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z',
  'M-4.4 0L3.4 -4.4V4.4Z',
  'M4.4 0L-3.4 -4.4V4.4Z',
];
const REFERENCE_SYMBOL = 'M-4.2 -1.6H4.2V1.6H-4.2Z';

/** The style sheet's colours as they are now; `kinds` are those of architectures. */
let COLOURS = readColours();

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    ...Object.fromEntries(['ink', 'quiet', 'grid', 'card', 'accent', 'alert', 'hull'].map((name) => [name, named(name)])),
    kinds: Array.from({ length: N_COLOURS }, (_, i) => named(`kind-${i}`)),
  };
}

/** What `make` returns with the colours of the light page, which files are saved in. */
function inLight(make) {
  const root = document.documentElement.classList;
  root.add('light');
  COLOURS = readColours();
  try {
    return make();
  } finally {
    root.remove('light');
    COLOURS = readColours();
  }
}

/** Everything again, in the colours of dark mode, light mode or print. */
function repaint() {
  COLOURS = readColours();
  renderAll();
  drawNow();
}

function followColours() {
  for (const query of ['(prefers-color-scheme: dark)', 'print']) {
    matchMedia(query).addEventListener('change', repaint);
  }
}

/**
 * Colour, symbol, line and width of an SAE. Baselines are ink, so that they stand apart; symbols of
 * other quantisers than the suite's own are hollow.
 */
function looksOf(sae) {
  const dash = dashOf(sae.quantiser);
  const hollow = sae.quantiser !== null;
  if (sae.baseline) {
    return { colour: COLOURS.ink, symbol: REFERENCE_SYMBOL, hollow, dash, width: 1.8 };
  }
  const position = trainedArchitectures(currentSite()).indexOf(sae.architecture);
  return {
    colour: COLOURS.kinds[position % N_COLOURS],
    symbol: SYMBOLS[position % SYMBOLS.length],
    hollow,
    dash,
    width: 1.1,
  };
}

/** A quantiser's line; whole for the suite's own. */
function dashOf(quantiser) {
  return page.dashes[quantiser] ?? [];
}

function trainedArchitectures(site) {
  site.trained ??= inOrder(site.saes.filter((sae) => !sae.baseline).map((sae) => sae.architecture));
  return site.trained;
}

/** The SAE's symbol, for use beside its name. */
function symbolOf(looks) {
  const fill = looks.hollow ? COLOURS.card : looks.colour;
  return drawing(
    'svg',
    { class: 'symbol', viewBox: '-6 -6 12 12', 'aria-hidden': 'true' },
    drawing('path', { d: looks.symbol, fill, stroke: looks.colour }),
  );
}

function lineOf({ colour, width, dash }) {
  return drawing(
    'svg',
    { class: 'line', viewBox: '0 0 28 8', 'aria-hidden': 'true' },
    drawing('path', {
      d: 'M0 4H28',
      stroke: colour,
      'stroke-width': width,
      'stroke-dasharray': dash.join(' '),
    }),
  );
}
