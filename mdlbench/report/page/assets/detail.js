// All about one SAE.

function select(id) {
  update({ selected: id });
}

function addDetail() {
  view(['selected', 'site'], renderDetail);
  view([...SHOWN_BY, 'selected', 'pins'], renderSelection);
}

/** The strip that says what is selected and pinned, wherever the page is scrolled to. */
function renderSelection() {
  const sae = saeOf(state.selected);
  byId('selection').hidden = !sae && !state.pins.length;
  for (const id of ['selected-name', 'show-detail', 'pin-selected', 'clear']) byId(id).hidden = !sae;
  byId('show-beside').hidden = !state.pins.length;
  byId('show-beside').textContent = `Side by side (${state.pins.length})`;
  byId('pin-selected').textContent = state.pins.includes(state.selected) ? 'Unpin' : 'Pin';
  byId('selected-name').textContent = sae ? sae.label : '';
  byId('selected-standing').textContent = sae ? standingOf(sae) : '';
}

function standingOf(sae) {
  const row = rowOf(currentTable(), sae, currentSite());
  const hidden = passes(sae) ? '' : ', filtered out';
  return row.bits === null
    ? `misses ${limitName(currentTable())}: floor ${lossText(row.floor)}${hidden}`
    : `${fixed(row.bits, 2)} bits/token at ${limitName(currentTable())}${hidden}`;
}

function renderDetail() {
  const sae = saeOf(state.selected);
  byId('detail').hidden = !sae;
  byId('detail').dataset.id = sae?.id ?? '';
  if (!sae) return;
  byId('detail').replaceChildren(
    element('h2', { id: 'detail-title', tabindex: '-1' }, symbolOf(looksOf(sae)), sae.label),
    element('p', { class: 'lede' }, `${summary(sae)} · `, recordLink(sae)),
    ...[toleranceCard(sae), floorCard(sae), pointsCard(sae)],
    ...chartCards(sae),
    ...[picturesCard(sae), reproduceCard(sae), ...factCards(sae)].filter(Boolean),
  );
  drawCharts(sae);
}

/** The record's file where it lies beside the page, else its name. */
function recordLink(sae) {
  return page.has_records ? element('a', { href: sae.file }, 'record (JSON)') : sae.file;
}

function summary(sae) {
  const parts = [
    sae.architecture,
    `${whole(sae.latents)} latents, ${share(sae.dead)} dead`,
    `quantiser ${quantiserOf(sae)}`,
    sae.partial ? 'partial: never ranked' : null,
    `${sae.standing}: ${STANDINGS[sae.standing]}`,
  ];
  return parts.filter(Boolean).join(' · ');
}

function card(title, kind, ...content) {
  return element('section', { class: `card ${kind}` }, element('h3', {}, title), ...content);
}

function toleranceCard(sae) {
  const site = currentSite();
  const rows = site.tables.map((table) => {
    const row = rowOf(table, sae, site);
    return [
      limitName(table),
      row.rank === null ? row.status : String(row.rank),
      row.bits === null ? ABSENT : `${fixed(row.bits, 2)} ${interval(row.bits_low, row.bits_high)}`,
      row.delta === null ? ABSENT : fixed(row.delta, 2),
      fixed(row.l0, 2),
      significant(row.step),
      lossText(row.loss, table.metric),
    ];
  });
  const headers = ['Tolerance', 'Rank', 'Bits/token', 'Δ', 'L0', 'Step', 'Loss'];
  return card('At every tolerance', 'wide', simpleTable('At every tolerance', headers, rows));
}

/** What the curves show at the pointer, as a table. */
function pointsCard(sae) {
  const { step, l0, bits } = sae.points;
  const accepted = acceptedAt(sae, currentSite());
  const rows = step.map((_, i) => [
    significant(step[i]),
    fixed(l0[i], 2),
    fixed(bits[i], 2),
    ...page.metrics.map(({ key }) => lossText(sae.points[key][i], key)),
    accepted.get(i)?.join(', ') ?? '',
  ]);
  const losses = page.metrics.map(({ header }) => header);
  const headers = ['Step', 'L0', 'Bits/token', ...losses, 'Accepted at'];
  const note = 'From the finest step to the coarsest; the same numbers as at the pointer on the curves. ★ marks the headline.';
  return card('Operating points', 'points', element('p', {}, note), simpleTable('Operating points', headers, rows));
}

/** By the position of a point, the tolerances whose accepted step it is. */
function acceptedAt(sae, site) {
  const accepted = new Map();
  for (const table of site.tables) {
    const { point } = rowOf(table, sae, site);
    const name = limitName(table) + (table.headline ? ' ★' : '');
    if (point !== null) accepted.set(point, [...(accepted.get(point) ?? []), name]);
  }
  return accepted;
}

function simpleTable(label, headers, rows) {
  return element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label }, element(
    'table',
    { class: 'simple' },
    element('thead', {}, element('tr', {}, ...headers.map((text) => element('th', { scope: 'col' }, text)))),
    element('tbody', {}, ...rows.map((cells) =>
      element('tr', {}, ...cells.map((text) => element('td', {}, text))))),
  ));
}

function floorCard(sae) {
  const rows = Object.entries(page.losses).map(([key, name]) =>
    [name, significant(sae.floor[key], METRICS[key]?.digits)]);
  return card('Floor: before quantisation', '', simpleTable('Floor', ['Loss', 'Value'], rows));
}

function chartCards(sae) {
  const split = card(
    'What the bits are spent on',
    'chart',
    element('p', {}, 'Support says which latents are active, magnitude how active they are. Plug-in entropies; ticks of the axis are quantiser steps.'),
    legend([[splitColours().support, 'support'], [splitColours().magnitude, 'magnitude']]),
    element('div', { id: 'split-plot' }),
  );
  return [split, ...(sae.profile ? profileCards(sae) : [])];
}

function splitColours() {
  return { support: COLOURS.kinds[0], magnitude: COLOURS.kinds[4] };
}

function profileCards(sae) {
  const { half, cumulative_bits: cumulative, step, zipf } = sae.profile;
  const total = cumulative.at(-1);
  const spread = `Half of the ${fixed(total, 1)} bits are on at most ${whole(half)} of ${whole(sae.latents)} latents (step ${significant(step)}).`;
  const law = zipf
    ? `Line: rate ∝ rank to the power −${fixed(zipf.exponent, 2)}, least squares in logarithms over live latents. Zipf's own law has 1.`
    : 'Too few live latents for a line.';
  return [
    card('How bits are spread over latents', 'chart', element('p', {}, spread), element('div', { id: 'bits-plot' })),
    card('Firing rates against rank', 'chart', element('p', { id: 'zipf' }, law), element('div', { id: 'rates-plot' })),
  ];
}

function legend(entries) {
  return element('p', { class: 'legend' }, ...entries.map(([colour, text]) =>
    element('span', {}, drawing('svg', { class: 'symbol', viewBox: '-6 -6 12 12', 'aria-hidden': 'true' },
      drawing('path', { d: SYMBOLS[1], fill: colour })), text)));
}

function drawCharts(sae) {
  const draw = (id, label, make) => {
    const titled = () => ({ title: `${sae.label}: ${label}`, ...make(sae) });
    if (byId(id)) new Plot(byId(id), label, id.replace('-plot', '')).show(titled);
  };
  draw('split-plot', 'Support and magnitude bits over steps', splitChart);
  if (!sae.profile) return;
  draw('bits-plot', 'Cumulative share of bits against rank of latent', spreadChart);
  draw('rates-plot', 'Firing rates against rank', ratesChart);
}

function splitChart(sae) {
  const { step, support, magnitude } = sae.points;
  const total = support.map((bits, i) => bits + magnitude[i]);
  const tip = (i) => [
    `step ${significant(step[i])}`,
    `support ${fixed(support[i], 2)} bits`,
    `magnitude ${fixed(magnitude[i], 2)} bits`,
  ];
  const zeros = step.map(() => 0);
  return {
    x: { label: 'quantiser step (finer to the left)', log: true, range: extent(step) },
    y: { label: 'bits per token', log: false, range: [0, 1.05 * Math.max(...total, 1e-3)] },
    lines: [
      { xs: step, ys: support, area: zeros, colour: splitColours().support, tip },
      { xs: step, ys: total, area: support, colour: splitColours().magnitude, tip },
    ],
  };
}

function extent(values) {
  const positive = values.filter((value) => value > 0);
  const [low, high] = [Math.min(...positive, 1e9), Math.max(...positive, 1e-9)];
  return low < high ? [low, high] : [low / 2, low * 2];
}

function spreadChart(sae) {
  const { ranks, cumulative_bits: cumulative, bits } = sae.profile;
  const total = cumulative.at(-1) || 1;
  return {
    x: { label: 'latents, by bits, most first', log: true, range: extent(ranks) },
    y: { label: 'share of all bits', log: false, range: [0, 1.02], text: (value) => `${Math.round(100 * value)}%` },
    rules: [{ y: 0.5, label: '', strong: false }],
    lines: [{
      xs: ranks,
      ys: cumulative.map((value) => value / total),
      colour: COLOURS.kinds[0],
      width: 2,
      tip: (i) => [`rank ${whole(ranks[i])}`, `${share(cumulative[i] / total)} up to here`, `${significant(bits[i])} bits on this one`],
    }],
  };
}

function ratesChart(sae) {
  const { ranks, firing_rates: rates, zipf } = sae.profile;
  const live = ranks.map((rank, i) => [rank, rates[i]]).filter(([, rate]) => rate > 0);
  const lines = [{
    xs: live.map(([rank]) => rank),
    ys: live.map(([, rate]) => rate),
    colour: COLOURS.kinds[0],
    symbol: SYMBOLS[0],
    tip: (i) => [`rank ${whole(live[i][0])}`, `on in ${significant(100 * live[i][1], 3)}% of tokens`],
  }];
  if (zipf) {
    const ends = extent(live.map(([rank]) => rank));
    lines.unshift({ xs: ends, ys: ends.map((rank) => zipf.first * rank ** -zipf.exponent), colour: COLOURS.alert, width: 1.6, dash: [6, 4] });
  }
  const [low, high] = extent(live.map(([, rate]) => rate));
  return {
    x: { label: 'rank of latent', log: true, range: extent(ranks) },
    y: { label: 'firing rate', log: true, range: [low / 1.5, high * 1.5] },
    lines,
  };
}

function picturesCard(sae) {
  if (!sae.pictures) return null;
  const { latents, png } = sae.pictures;
  const title = 'Features that cost most bits';
  if (!png) return card(title, 'pictures', element('p', {}, 'Left out of this page for its size; the record has these pictures.'));
  const listed = latents.slice(0, 8).join(', ');
  return card(
    title,
    'pictures',
    element('p', {}, `Decoder rows of the ${latents.length} costliest latents, left to right, then down (${listed}, …). Red positive, blue negative; each has its own scale.`),
    element('img', { alt: `Decoder rows of latents ${latents.join(', ')} of ${sae.label}`, src: `data:image/png;base64,${png}` }),
  );
}

function reproduceCard(sae) {
  const words = sae.commands.length > 1
    ? 'Measure it again, or check this record, in a checkout of the results folder:'
    : 'Check this record, in a checkout of the results folder:';
  return card('Reproduce this row', 'wide', element('p', {}, words), ...sae.commands.map(commandLine));
}

function commandLine(text) {
  const code = element('code', {}, text);
  const button = element('button', { type: 'button', onclick: () => copy(text, code, button) }, 'Copy');
  return element('div', { class: 'command' }, code, button);
}

/** To the clipboard; where that is closed, the text is selected instead. */
async function copy(text, code, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = 'Selected';
  }
}

function factCards(sae) {
  return Object.entries(sae.facts).map(([heading, facts]) => card(heading, '', definitions(facts)));
}
