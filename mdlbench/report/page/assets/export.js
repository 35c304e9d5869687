// What is shown, as files: the table as CSV and JSON, a plot as SVG and PNG.

const PICTURE = { width: 900, height: 560, density: 2 };
const CAPTION = { left: 16, title: 24, row: 18 };
const FORMULA = ['=', '+', '-', '@'];
const VIEW_COLUMNS = {
  metric: () => currentTable().metric,
  epsilon: () => currentTable().epsilon,
  rank: (row) => row.rank,
  label: (row) => row.sae.label,
  status: (row) => row.status,
  ...Object.fromEntries(['bits', 'bits_low', 'bits_high', 'delta', 'delta_low', 'delta_high', 'step', 'l0', 'loss', 'coded', 'floor', 'at_coarsest', 'non_monotone'].map((name) => [name, (row) => row[name]])),
  d_latents: (row) => row.sae.latents,
  dead_fraction: (row) => row.sae.dead,
  break_even_tokens: (row) => row.sae.break_even,
  architecture: (row) => row.sae.architecture,
  quantiser: (row) => quantiserOf(row.sae),
  standing: (row) => row.sae.standing,
  name: (row) => row.sae.name,
  id: (row) => row.sae.id,
};

function save(name, blob) {
  const address = URL.createObjectURL(blob);
  element('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A name for a file of what is shown: suite, site and tolerance. */
function fileName(what, ending) {
  const site = page.sites.length > 1 ? [currentSite().label] : [];
  const { metric, epsilon } = currentTable();
  const slug = [page.suite, ...site, what, metric, epsilon].join('-').toLowerCase().replace(/[^a-z0-9.]+/g, '-').replace(/^[-.]+/, '');
  return `${slug.slice(0, 120)}.${ending}`;
}

/** The rows shown, in their order, under the names that table.csv has for their columns. */
function viewRows() {
  const { saes, baselines } = shownRows();
  return [...saes, ...baselines].map((row) =>
    Object.fromEntries(Object.entries(VIEW_COLUMNS).map(([name, read]) => [name, read(row)])));
}

function saveView(ending) {
  const text = ending === 'csv' ? viewAsCsv() : viewAsJson();
  save(fileName('ranking', ending), new Blob([text], { type: ending === 'csv' ? 'text/csv' : 'application/json' }));
}

function viewAsCsv() {
  const where = { suite: page.suite, site: currentSite().label };
  const lines = viewRows().map((row) => Object.values({ ...where, ...row }));
  const table = [Object.keys({ ...where, ...VIEW_COLUMNS }), ...lines];
  return table.map((cells) => `${cells.map(csvCell).join(',')}\n`).join('');
}

/** A text that a spreadsheet would run as a formula has an apostrophe. */
function csvCell(value) {
  if (value === null) return '';
  if (typeof value !== 'string') return String(value);
  const text = value.replaceAll('\r', '�');
  const runs = text.startsWith('\t') || FORMULA.some((sign) => text.trimStart().startsWith(sign));
  const cell = runs ? `'${text}` : text;
  return /[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

function viewAsJson() {
  const { metric, epsilon } = currentTable();
  const { suite, digest, protocol } = page;
  const content = {
    suite,
    suite_digest: digest,
    protocol,
    site: currentSite().label,
    metric,
    epsilon,
    view: addressOf(),
    rows: viewRows(),
  };
  return `${JSON.stringify(content, null, 1)}\n`;
}

function savePlot(plot, ending) {
  const name = fileName(plot.name, ending);
  if (ending === 'svg') {
    const svg = new XMLSerializer().serializeToString(inLight(() => pictured(plot, svgOf)));
    save(name, new Blob([svg], { type: 'image/svg+xml' }));
  } else {
    inLight(() => pictured(plot, canvasOf)).toBlob((blob) => save(name, blob), 'image/png');
  }
}

function svgOf({ width, height }, draw) {
  const paper = new SvgPaper(width, height);
  draw(paper);
  return paper.root;
}

function canvasOf({ width, height }, draw) {
  const canvas = document.createElement('canvas');
  draw(new CanvasPaper(fresh(canvas, width, height, PICTURE.density)));
  return canvas;
}

/** The plot as it is zoomed, with a title above and what its lines mean below. */
function pictured(plot, onPaper) {
  const chart = plot.make();
  const { width, height } = PICTURE;
  const rows = legendRows(chart, width - 2 * CAPTION.left);
  const whole = height + CAPTION.row * rows.length + 10;
  const place = { left: 0, top: CAPTION.title + 16, width, height: height - CAPTION.title - 16 };
  return onPaper({ width, height: whole }, (paper) => {
    paper.area([[0, 0], [width, 0], [width, whole], [0, whole]], { colour: COLOURS.card });
    const title = shortened(`${page.title}: ${chart.title ?? plot.name}`, width - 2 * CAPTION.left);
    paper.text(title, CAPTION.left, CAPTION.title, { colour: COLOURS.ink, bold: true });
    new Sketch(chart, place, plot.followed, plot.zoomed).draw(paper);
    rows.forEach((row, i) => drawLegend(paper, row, height + CAPTION.row * (i + 1)));
  });
}

/** Every kind that is drawn, once, in rows that are not wider than so. */
function legendRows(chart, width) {
  const items = [...chart.lines, ...(chart.dots ?? [])].filter((item) => item.kind && !item.labelled);
  const kinds = new Map(items.map((item) => [item.kind, item]));
  const rows = [];
  let x = Infinity;
  for (const [kind, looks] of [...kinds].sort(([one], [other]) => (one < other ? -1 : 1))) {
    const wide = widthOf(kind) + 46;
    if (x + wide > width) {
      rows.push([]);
      x = 0;
    }
    rows.at(-1).push({ kind, looks, x: CAPTION.left + x });
    x += wide;
  }
  return rows;
}

function drawLegend(paper, row, y) {
  for (const { kind, looks, x } of row) {
    const { colour, dash, symbol } = looks;
    if (looks.width) paper.line([[x, y - 4], [x + 20, y - 4]], { colour, dash, width: looks.width });
    if (symbol) paper.symbol(symbol, x + 10, y - 4, { fill: colour, stroke: COLOURS.card, width: 0.7 });
    paper.text(kind, x + 26, y, { colour: COLOURS.ink });
  }
}
