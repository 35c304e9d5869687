// A chart on a paper: axes, lines, areas and dots, linear or logarithmic.
//
// A chart is {title, x, y, lines, dots, rules, pick}: axes {label, log, range, ticks, text}; lines
// {xs, ys, colour, …}; dots {x, y, low, high, colour, symbol, …}; rules {y, label, strong}. What has
// a `tip(i)` answers to the pointer, what has an `id` can be picked and followed, a `kind` is named
// in the legend of a saved plot, and a `name` stands at the end of a line that is followed, or
// `labelled`. A line with a `path` is drawn along that instead of its own points.

const MARGIN = { left: 58, right: 14, bottom: 42 };
const FADED = 0.22;
const LABEL_HEIGHT = 15;
const LABEL_WIDTH = 190;
// To the right or left of a point, and so many pixels up.
const LABEL_SHIFTS = [[1, 0], [1, 16], [1, -16], [-1, 16], [-1, 0], [-1, -16]];

class Sketch {
  /**
   * Args: the chart; where it stands, as {left, top, width, height}; ids of what is followed; the
   * ranges that it is zoomed to, or null.
   */
  constructor(chart, place, ids = new Set(), zoomed = null) {
    this.chart = chart;
    this.left = place.left + MARGIN.left;
    this.top = place.top;
    this.across = Math.max(place.width - MARGIN.left - MARGIN.right, 1);
    this.down = Math.max(place.height - MARGIN.bottom, 1);
    const { x, y } = chart;
    this.x = scale(zoomed?.x ?? x.range, x.log, this.left, this.across, x.ticks);
    this.y = scale(zoomed?.y ?? y.range, y.log, this.top + this.down, -this.down, y.ticks);
    const drawn = [...chart.lines, ...(chart.dots ?? [])].map((item) => item.id);
    this.followed = new Set(drawn.filter((id) => id && ids.has(id)));
  }

  get box() {
    return [this.left, this.top, this.across, this.down];
  }

  contains(x, y) {
    return x >= this.left - 1 && x <= this.left + this.across + 1 && y >= this.top - 1
      && y <= this.top + this.down + 1;
  }

  isFollowed(item) {
    return Boolean(item.id) && this.followed.has(item.id);
  }

  /** Whether something else is followed; what is filtered out does not count. */
  recedes(item) {
    return this.followed.size > 0 && Boolean(item.id) && !this.isFollowed(item);
  }

  draw(paper) {
    const { lines, dots = [] } = this.chart;
    const last = (items) => [...items].sort((one, other) => this.isFollowed(one) - this.isFollowed(other));
    this.drawAxes(paper);
    paper.within(this.box, () => {
      for (const line of last(lines)) this.drawLine(paper, line);
    });
    this.drawRules(paper);
    for (const dot of last(dots)) this.drawDot(paper, dot);
    this.drawNames(paper);
  }

  drawAxes(paper) {
    const { left, top, across, down } = this;
    const [grid, quiet] = [{ colour: COLOURS.grid }, { colour: COLOURS.quiet }];
    for (const tick of apart(this.x.ticks, this.x, 44)) {
      const x = this.x(tick);
      paper.line([[x, top], [x, top + down]], grid);
      paper.text(tickText(tick, this.chart.x), x, top + down + 16, { ...quiet, align: 'center' });
    }
    for (const tick of apart(this.y.ticks, this.y, 16)) {
      const y = this.y(tick);
      paper.line([[left, y], [left + across, y]], grid);
      paper.text(tickText(tick, this.chart.y), left - 7, y + 4, { ...quiet, align: 'right' });
    }
    const ink = { colour: COLOURS.ink, align: 'center' };
    paper.text(this.chart.x.label, left + across / 2, top + down + 36, ink);
    paper.text(this.chart.y.label, left - 46, top + down / 2, { ...ink, upright: true });
  }

  drawRules(paper) {
    for (const { y, label, strong } of this.chart.rules ?? []) {
      const height = this.y(y);
      if (!(height >= this.top && height <= this.top + this.down)) continue;
      const right = this.left + this.across;
      const colour = strong ? COLOURS.ink : COLOURS.quiet;
      paper.line([[this.left, height], [right, height]], { colour, width: strong ? 1.3 : 0.8, dash: [5, 4] });
      paper.text(label, right - 4, height - 5, { colour, align: 'right', bold: strong, halo: COLOURS.card });
    }
  }

  drawLine(paper, line) {
    const isPale = this.recedes(line) || (line.pale && !this.isFollowed(line));
    const alpha = isPale ? FADED : 0.85;
    const { colour, dash } = line;
    if (line.area) {
      const back = line.xs.map((x, i) => [this.x(x), this.y(line.area[i])]).reverse();
      paper.area([...this.points(line), ...back], { colour, alpha });
    }
    if (line.width) paper.line(this.points(line), { colour, dash, alpha, width: this.isFollowed(line) ? 3.2 : line.width });
    if (line.symbol) this.mark(paper, line, alpha);
  }

  points({ xs, ys, path }) {
    return (path ?? xs.map((x, i) => [x, ys[i]])).map(([x, y]) => [this.x(x), this.y(y)]);
  }

  /** The line's symbol at its points; at some of them only where it says so. */
  mark(paper, line, alpha) {
    const marks = line.marks ?? line.xs.map((_, i) => i);
    for (const i of marks) this.stamp(paper, line, this.x(line.xs[i]), this.y(line.ys[i]), 1, alpha);
  }

  drawDot(paper, dot) {
    const [x, y] = [this.x(dot.x), this.y(dot.y)];
    if (!this.contains(x, y)) return;
    const alpha = this.recedes(dot) ? FADED : 1;
    if (dot.low !== null) {
      const inside = (bits) => Math.min(Math.max(this.y(bits), this.top), this.top + this.down);
      const ends = [[x, inside(dot.low)], [x, inside(dot.high)]];
      paper.line(ends, { colour: dot.colour, width: 1.4, alpha });
    }
    this.stamp(paper, dot, x, y, this.isFollowed(dot) ? 1.7 : 1, alpha);
  }

  stamp(paper, { symbol, colour, hollow }, x, y, size, alpha) {
    const { card } = COLOURS;
    paper.symbol(symbol, x, y, {
      fill: hollow ? card : colour,
      stroke: hollow ? colour : card,
      width: hollow ? 1.3 : 0.7,
      size,
      alpha,
    });
  }

  /** Names beside their lines, near their ends, each where none is yet; left out where all is full. */
  drawNames(paper) {
    const named = this.chart.lines.filter((line) => line.name && (line.labelled || this.isFollowed(line)));
    const taken = this.ruleLabels();
    for (const line of named.sort((one, other) => this.isFollowed(other) - this.isFollowed(one))) {
      const words = shortened(line.name, LABEL_WIDTH);
      const place = this.placesOf(line, widthOf(words, true)).find((box) => taken.every((other) => !overlap(box, other)));
      if (!place) continue;
      taken.push(place);
      const { from, left, top, width } = place;
      paper.line([from, [from[0] < left ? left - 3 : left + width + 3, top + LABEL_HEIGHT / 2]], { colour: line.colour, width: 2 });
      paper.text(words, left, top + LABEL_HEIGHT - 4, { colour: COLOURS.ink, bold: true, halo: COLOURS.card });
    }
  }

  /** Where the names of the rules stand. */
  ruleLabels() {
    return (this.chart.rules ?? []).map(({ y, label }) => {
      const width = widthOf(label, true);
      const [left, top] = [this.left + this.across - 4 - width, this.y(y) - 5 - TYPE_SIZE];
      return { left, top, width, height: LABEL_HEIGHT };
    });
  }

  /** Where a name of so many pixels may stand: right of a point of its line or left of it. */
  placesOf(line, width) {
    const inside = this.points(line).filter(([x, y]) => this.contains(x, y));
    const every = Math.max(1, Math.floor(inside.length / 12));
    const points = inside.sort(([x], [other]) => other - x).filter((_, i) => i % every === 0);
    return points.flatMap((from) => LABEL_SHIFTS.map(([side, up]) => {
      const left = side > 0 ? from[0] + 10 : from[0] - 10 - width;
      return { from, left, top: from[1] - LABEL_HEIGHT / 2 - up, width, height: LABEL_HEIGHT };
    })).filter((box) => this.contains(box.left, box.top) && this.contains(box.left + width, box.top + LABEL_HEIGHT));
  }
}

function overlap(one, other) {
  return one.left < other.left + other.width + 4 && other.left < one.left + one.width + 4
    && one.top < other.top + other.height && other.top < one.top + one.height;
}
