// Side by side: up to four pinned SAEs in columns, and their paired differences to the first.

function pinButton(sae) {
  return element('button', {
    type: 'button',
    class: 'pin',
    'data-pin': sae.id,
    'aria-pressed': 'false',
    'aria-label': `Side by side: ${sae.label}`,
    title: 'Side by side',
    onclick: (event) => {
      event.stopPropagation();
      togglePin(sae.id);
    },
  });
}

function togglePin(id) {
  if (state.pins.includes(id)) {
    update({ pins: state.pins.filter((pin) => pin !== id) });
  } else if (state.pins.length < MOST_PINS) {
    update({ pins: [...state.pins, id] });
  } else {
    say(`${MOST_PINS} SAEs are side by side already: take one out first.`);
  }
}

function markPins() {
  for (const button of document.querySelectorAll('[data-pin]')) {
    button.setAttribute('aria-pressed', String(state.pins.includes(button.dataset.pin)));
  }
}

function addBeside() {
  view(['pins', 'site', 'table'], renderBeside);
}

function renderBeside() {
  const saes = state.pins.map(saeOf);
  byId('beside').hidden = !saes.length;
  byId('beside').replaceChildren();
  if (!saes.length) return;
  byId('beside').replaceChildren(
    element('h2', { id: 'beside-title', tabindex: '-1' }, 'Side by side'),
    element('p', { class: 'caption' }, ...besideWords(saes)),
    element('div', { class: 'scroll besides', tabindex: '0', role: 'region', 'aria-labelledby': 'beside-title' }, element(
      'table',
      {},
      element('thead', {}, element('tr', {}, element('td', {}), ...saes.map(besideHead))),
      ...besideGroups(saes).map(besideBody),
    )),
    saes.length > 1 ? commandLine(['mdlbench', 'compare', ...saes.map((sae) => sae.id.slice(0, 16)), '--in', '.'].join(' ')) : null,
  );
}

function besideWords(saes) {
  if (saes.length < 2) return [`Pin others with the box before a name, up to ${MOST_PINS} in all; differences are to the first.`];
  return [
    `Differences are to ${saes[0].label}, with the 95% interval of the difference, paired over resampled documents as `,
    element('code', {}, 'mdlbench compare'),
    ' has it. Grey ones could be chance.',
  ];
}

function besideHead(sae, i) {
  const act = (text, label, onclick) =>
    element('button', { type: 'button', 'aria-label': `${label}: ${sae.label}`, onclick }, text);
  const first = () => {
    update({ pins: [sae.id, ...state.pins.filter((pin) => pin !== sae.id)] });
    byId('beside-title').focus();
  };
  const out = () => {
    togglePin(sae.id);
    byId('beside-title')?.focus();
  };
  return element(
    'th',
    { scope: 'col' },
    element('span', { class: 'who' }, symbolOf(looksOf(sae)), sae.label),
    element(
      'span',
      { class: 'acts' },
      i ? act('Make first', 'Make first', first) : element('span', { class: 'badge' }, 'first'),
      act('Details', 'Details', () => showDetailOf(sae.id)),
      act('✕', 'Take out', out),
    ),
  );
}

function besideBody({ title, rows }) {
  return element(
    'tbody',
    {},
    element('tr', { class: 'heading' }, element('th', { scope: 'rowgroup', colspan: MOST_PINS + 1 }, title)),
    ...rows.map(([name, cells, isChosen]) => element(
      'tr',
      { class: isChosen ? 'chosen' : null },
      element('th', { scope: 'row' }, name),
      ...cells.map((cell) => element('td', {}, ...[cell].flat())),
    )),
  );
}

/** Rows of names and cells, one cell an SAE. */
function besideGroups(saes) {
  const table = currentTable();
  const rows = saes.map((sae) => rowOf(table, sae, currentSite()));
  const of = (name, read) => [name, saes.map((sae, i) => read(sae, rows[i]))];
  const groups = [
    { title: 'Bits per token', rows: currentSite().tables.map((one) => besideBits(one, saes)) },
    {
      title: `At ${limitName(table)}`,
      rows: [
        of('Rank', (_, row) => (row.rank === null ? row.status : String(row.rank))),
        of('L0', (_, row) => fixed(row.l0, 2)),
        of('Step', (_, row) => significant(row.step)),
        of('Coded', (_, row) => fixed(row.coded, 2)),
        of('Support, magnitude', (sae, row) => besideSplit(sae, row)),
      ],
    },
    {
      title: 'The SAE',
      rows: [
        of('Architecture', (sae) => sae.architecture),
        of('Quantiser', quantiserOf),
        of('Latents', (sae) => whole(sae.latents)),
        of('Dead', (sae) => share(sae.dead)),
        of('Break-even', (sae) => prefixed(sae.break_even)),
        of('Status', (sae) => sae.standing),
        of('Record', (sae) => recordLink(sae)),
      ],
    },
    {
      title: 'Floor: before quantisation',
      rows: Object.entries(page.losses).map(([key, name]) =>
        of(name, (sae) => significant(sae.floor[key], METRICS[key]?.digits))),
    },
  ];
  return saes.some((sae) => sae.profile) ? [...groups, besideSpread(of)] : groups;
}

function besideSpread(of) {
  const read = (take) => ({ profile }) => (profile ? take(profile) : ABSENT);
  return {
    title: 'How bits are spread over latents',
    rows: [
      of('Half of the bits are on', read(({ half }) => `${whole(half)} latents`)),
      of("Exponent of Zipf's law", read(({ zipf }) => (zipf ? fixed(zipf.exponent, 2) : ABSENT))),
    ],
  };
}

function besideSplit(sae, { point }) {
  if (point === null) return ABSENT;
  return `${fixed(sae.points.support[point], 2)} + ${fixed(sae.points.magnitude[point], 2)}`;
}

/** Bits of each at a tolerance, and but for the first how many more they are than its. */
function besideBits(table, saes) {
  const site = currentSite();
  const first = rowOf(table, saes[0], site);
  const cells = saes.map((sae, i) => {
    const row = rowOf(table, sae, site);
    if (row.bits === null) return element('span', { class: 'quiet' }, `infeasible: floor ${lossText(row.floor, table.metric)}`);
    const bits = element('span', {}, element('b', {}, fixed(row.bits, 2)), ` ${interval(row.bits_low, row.bits_high)}`);
    return i && first.bits !== null ? [bits, differenceLine(differenceOf(table, first, row, site))] : bits;
  });
  return [limitName(table) + (table.headline ? ' ★' : ''), cells, table === currentTable()];
}

function differenceLine(difference) {
  if (!difference) return element('span', { class: 'difference chance' }, 'no interval in this page');
  const { bits, low, high } = difference;
  const isChance = low <= 0 && high >= 0;
  return element(
    'span',
    { class: `difference${isChance ? ' chance' : ''}`, title: isChance ? 'The difference could be chance' : null },
    `${signed(bits, 2)} ${interval(low, high)}`,
  );
}

/** Bits of one row above those of another, with their paired interval; null where the page has none. */
function differenceOf(table, one, other, site) {
  const rows = pairedRows(table, site);
  const [i, j] = [rows.indexOf(one), rows.indexOf(other)];
  if (i < 0 || j < 0) return null;
  const bits = other.bits - one.bits;
  const [low, high] = endsOf(table, Math.min(i, j), Math.max(i, j));
  return i < j ? { bits, low, high } : { bits, low: -high, high: -low };
}

/** The rows whose paired intervals the page has, in their order. */
function pairedRows(table, site) {
  table.pairedRows ??= table.pairs.rows.map((i) => rowsOf(table, site)[i]);
  return table.pairedRows;
}

/** The ends of the interval of row j minus row i, i < j; pairs are in the order (0, 1), (0, 2), … */
function endsOf(table, i, j) {
  const { rows, ends } = table.pairs;
  table.ends ??= floats(ends);
  const pair = (i * (2 * rows.length - i - 1)) / 2 + (j - i - 1);
  return [table.ends[2 * pair], table.ends[2 * pair + 1]];
}

/** Numbers of 32 bits, the smallest byte first, from base64. */
function floats(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const data = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => data.getFloat32(4 * i, true));
}
