// The ranked table at one tolerance: sorted, filtered, one row an SAE, baselines apart.

const COLUMNS = [
  { key: 'rank', header: 'Rank', value: (row) => row.rank, cell: rankCell },
  { key: 'sae', header: 'SAE', value: (row) => row.sae.label.toLowerCase(), cell: nameCell },
  { key: 'bits', header: 'Bits/token', value: (row) => row.bits, cell: bitsCell },
  { key: 'delta', header: 'Δ to the first', value: (row) => row.delta, cell: deltaCell },
  { key: 'architecture', header: 'Architecture', value: (row) => row.sae.architecture },
  { key: 'latents', header: 'Latents', value: (row) => row.sae.latents, text: whole },
  { key: 'l0', header: 'L0', value: (row) => row.l0, text: (value) => fixed(value, 2) },
  { key: 'coded', header: 'Coded', value: (row) => row.coded, text: (value) => fixed(value, 2) },
  { key: 'floor', header: 'Floor', value: (row) => row.floor, text: (value) => lossText(value) },
  { key: 'dead', header: 'Dead', value: (row) => row.sae.dead, text: share },
  { key: 'break-even', header: 'Break-even', value: (row) => row.sae.break_even, text: prefixed },
  { key: 'standing', header: 'Status', value: (row) => row.sae.standing, cell: standingCell },
];
const TITLES = {
  l0: 'Nonzero symbols per token at the tolerance',
  bits: 'With the half-width of the 95% interval; smallest is best',
  delta: 'Bits above the best SAE, with the paired 95% interval',
  coded: 'Bits per token of a real bitstream at the accepted step, decoded and compared',
  floor: 'Loss before quantisation',
  dead: 'Latents active on no token',
  'break-even': 'Tokens after which the latents sent have cost as much as decoder and codebook',
  standing: Object.entries(STANDINGS).map((words) => words.join(': ')).join('; '),
};
const BAR = 54;
const ARROW = 5;

let elements = new Map(); // of the rows shown

function rankCell(row) {
  if (row.rank === null) {
    const isSaid = row.sae.baseline || row.status === 'infeasible';
    return [element('span', { class: 'quiet' }, isSaid ? ABSENT : row.status)];
  }
  const isShared = currentTable().columns.rank.filter((rank) => rank === row.rank).length > 1;
  const title = isShared ? 'Shared: the difference could be chance' : null;
  return [element('span', { title }, isShared ? `${row.rank}=` : String(row.rank))];
}

function nameCell(row) {
  const name = element('button', { type: 'button', class: 'name' }, row.sae.label);
  const badge = row.sae.partial ? element('span', { class: 'badge partial' }, 'partial') : null;
  return [pinButton(row.sae), symbolOf(looksOf(row.sae)), name, badge].filter(Boolean);
}

function bitsCell(row, most) {
  if (row.bits === null) return [element('span', { class: 'quiet' }, 'infeasible')];
  const marks = [row.at_coarsest ? '≤ ' : '', row.non_monotone ? '†' : ''];
  const half = fixed((row.bits_high - row.bits_low) / 2, 2);
  const text = element('span', { class: 'number' }, `${marks[0]}${fixed(row.bits, 2)}${marks[1]}`);
  return [bitsBar(row, most), text, element('span', { class: 'half' }, ` ± ${half}`)];
}

/** Where the bars of a table end: at the longest SAE's, whatever is filtered. */
function mostBits(table, site) {
  const rows = rowsOf(table, site).filter((row) => row.bits !== null);
  const saes = rows.filter((row) => !row.sae.baseline);
  return Math.max(...(saes.length ? saes : rows).map((row) => row.bits_high), 1);
}

/** The bits as a bar from 0, with their interval as a line across its end; an arrow beyond it. */
function bitsBar(row, most) {
  const { colour } = looksOf(row.sae);
  const at = (bits) => (BAR * Math.min(bits, most)) / most;
  const bar = (width) => drawing('rect', { y: 4, width, height: 6, fill: colour, opacity: 0.4 });
  const [low, high] = [at(row.bits_low), at(row.bits_high)];
  const marks = row.bits > most
    ? [bar(BAR - ARROW), drawing('path', { class: 'beyond', d: `M${BAR - ARROW} 2L${BAR} 7L${BAR - ARROW} 12Z`, fill: colour })]
    : [bar(at(row.bits)), drawing('path', { d: `M${low} 7H${high}M${low} 3V11M${high} 3V11`, stroke: colour })];
  return drawing('svg', { class: 'bar', preserveAspectRatio: 'none', viewBox: `0 0 ${BAR + 2} 14`, 'aria-hidden': 'true' }, ...marks);
}

function deltaCell(row) {
  if (row.delta === null) return [ABSENT];
  if (row.delta_low === 0 && row.delta_high === 0) return [element('span', { class: 'quiet' }, '0')];
  const range = element('span', { class: 'half' }, ` ${interval(row.delta_low, row.delta_high)}`);
  return [signed(row.delta, 2), range];
}

function standingCell(row) {
  const { standing } = row.sae;
  const mark = standing === 'reproduced' ? '✓ ' : '';
  return [element('span', { class: `badge ${standing}`, title: STANDINGS[standing] }, mark + standing)];
}

/** Rows by the chosen column; equal ones keep the ranking's order, absent values come last. */
function sorted(rows) {
  const { key, descending } = state.sort;
  const { value } = COLUMNS.find((column) => column.key === key);
  const compare = (one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    const order = a < b ? -1 : Number(a > b);
    return descending ? -order : order;
  };
  return [...rows].sort(compare);
}

/** The rows that pass the filters, in the order that they are shown in: SAEs, then baselines. */
function shownRows() {
  const rows = sorted(rowsOf(currentTable(), currentSite()).filter((row) => passes(row.sae)));
  return { saes: rows.filter((row) => !row.sae.baseline), baselines: rows.filter((row) => row.sae.baseline) };
}

function renderTable() {
  const rows = rowsOf(currentTable(), currentSite()).filter((row) => passes(row.sae));
  const most = mostBits(currentTable(), currentSite());
  elements = new Map(rows.map((row) => [row, tableRow(row, most)]));
  byId('table-title').textContent = `Ranking at ${limitName(currentTable())}`;
  byId('count').textContent = counted(rows);
  byId('nothing').hidden = rows.length > 0;
  byId('bars').textContent = `Bars begin at 0 and end at ${fixed(most, 0)} bits; an arrow: beyond that.`;
  byId('notes').textContent = notes(rows).join(' ');
}

/** How many SAEs and baselines are shown; one that was measured in several ways has several rows. */
function counted(rows) {
  const coders = (some) => new Set(some.map((sae) => sae.coder)).size;
  const trained = (some) => some.filter((sae) => !sae.baseline);
  const baselines = (some) => some.filter((sae) => sae.baseline);
  const [shown, all] = [rows.map((row) => row.sae), currentSite().saes];
  const n = coders(trained(shown));
  const parts = [
    `${n} of ${coders(trained(all))} SAEs`,
    trained(shown).length > n ? `in ${trained(shown).length} rows` : null,
    baselines(all).length ? `and ${coders(baselines(shown))} of ${coders(baselines(all))} baselines` : null,
  ];
  return parts.filter(Boolean).join(' ');
}

function renderOrder() {
  const { saes, baselines } = shownRows();
  byId('rows').replaceChildren(...saes.map((row) => elements.get(row)));
  byId('baselines').replaceChildren(...baselines.map((row) => elements.get(row)));
  byId('baselines-title').hidden = !baselines.length;
}

function tableRow(row, most) {
  const cells = COLUMNS.map((column) => {
    const content = column.cell ? column.cell(row, most) : [plain(column, row)];
    const name = column.key === 'sae' ? 'th' : 'td';
    const scope = name === 'th' ? 'row' : null;
    return element(name, { class: column.key, scope }, ...content);
  });
  const { id } = row.sae;
  return element(
    'tr',
    { 'data-id': id, class: row.status, onclick: () => select(id) },
    ...cells,
  );
}

function plain(column, row) {
  const value = column.value(row);
  if (value === null) return ABSENT;
  return column.text ? column.text(value) : String(value);
}

/** What is said of marks and statuses, where a row has them. */
function notes(rows) {
  return Object.entries(page.notes)
    .filter(([key]) => rows.some((row) => row[key] === true || row.status === key))
    .map(([, note]) => note);
}

function markSelected() {
  for (const row of document.querySelectorAll('.ranking tr[data-id]')) {
    row.setAttribute('aria-current', String(row.dataset.id === state.selected));
  }
}

function renderHeaders() {
  byId('headers').replaceChildren(...COLUMNS.map(({ key, header }) => {
    const isSorted = state.sort.key === key;
    const direction = state.sort.descending ? 'descending' : 'ascending';
    const arrow = isSorted ? (state.sort.descending ? ' ▼' : ' ▲') : '';
    const button = element(
      'button',
      { type: 'button', 'data-key': key, onclick: () => sortBy(key) },
      header,
      element('span', { 'aria-hidden': 'true' }, arrow),
    );
    const sort = isSorted ? direction : 'none';
    return element('th', { class: key, scope: 'col', 'aria-sort': sort, title: TITLES[key] ?? null }, button);
  }));
}

function sortBy(key) {
  const descending = state.sort.key === key && !state.sort.descending;
  update({ sort: { key, descending } });
  document.querySelector(`#headers button[data-key="${key}"]`).focus();
}

function addTable() {
  view(['sort'], renderHeaders);
  view(SHOWN_BY, renderTable);
  view([...SHOWN_BY, 'sort'], renderOrder);
  view([...SHOWN_BY, 'selected'], markSelected);
  view([...SHOWN_BY, 'pins'], markPins);
  byId('save-csv').addEventListener('click', () => saveView('csv'));
  byId('save-json').addEventListener('click', () => saveView('json'));
}
