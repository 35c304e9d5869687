// A chart on the page: it answers to the pointer, is zoomed by mouse, touch and keyboard, and saved.

const REACH = 22;
const LEAST_DRAG = 8;
const TOOLS = 34;
const ZOOM_STEP = 0.6;
// An axis is zoomed to no less and no more of its whole length.
const NEAREST = 1e-4;
const FARTHEST = 8;

let plots = [];

/** Draws all plots at once, not with the next frame: a print does not wait for one. */
function drawNow() {
  for (const plot of plots) if (plot.host.isConnected) plot.draw();
}

class Plot {
  /** `label` says what is drawn; `name` is the beginning of the files that it is saved in. */
  constructor(host, label, name) {
    this.host = host;
    this.name = name;
    this.base = element('canvas', { role: 'img', 'aria-label': label });
    this.overlay = element('canvas', { class: 'overlay', 'aria-hidden': 'true' });
    this.tooltip = element('div', { class: 'tooltip', role: 'status', hidden: true });
    this.reset = tool('Reset zoom', 'Reset zoom', () => this.zoom(null), 'reset');
    this.reset.hidden = true;
    this.host.classList.add('plot');
    this.host.append(this.base, this.overlay, this.tooltip, element(
      'div',
      { class: 'tools', role: 'group', 'aria-label': `${label}: zoom and save` },
      this.reset,
      tool('+', 'Zoom in', () => this.zoomBy(ZOOM_STEP), 'zoom-in'),
      tool('−', 'Zoom out', () => this.zoomBy(1 / ZOOM_STEP), 'zoom-out'),
      tool('SVG', 'Save as SVG', () => savePlot(this, 'svg'), 'svg'),
      tool('PNG', 'Save as PNG', () => savePlot(this, 'png'), 'png'),
    ));
    this.followed = new Set();
    this.zoomed = null;
    this.dragged = null;
    this.pinched = null;
    this.awaited = null;
    this.listen();
    new ResizeObserver(() => this.fit()).observe(host);
    plots = [...plots.filter((plot) => plot.host.isConnected), this];
  }

  fit() {
    const { clientWidth, clientHeight } = this.host;
    if (clientWidth !== this.width || clientHeight !== this.height) this.redraw();
  }

  /** Draws with the next frame, once, however much changes before it. */
  redraw() {
    this.awaited ??= requestAnimationFrame(() => {
      this.awaited = null;
      this.draw();
    });
  }

  /** Shows what `make` returns, a chart; it is made again for files. */
  show(make) {
    this.make = make;
    this.chart = make();
    this.host.dataset.title = this.chart.title ?? '';
    this.zoom(null);
  }

  zoom(ranges) {
    this.zoomed = ranges;
    this.reset.hidden = ranges === null;
    this.redraw();
  }

  follow(ids) {
    this.followed = ids;
    this.redraw();
  }

  draw() {
    if (!this.chart || !this.host.clientWidth) return;
    this.sketch = this.sketched();
    this.host.dataset.followed = [...this.sketch.followed].join(' ');
    this.sketch.draw(new CanvasPaper(fresh(this.base, this.width, this.height)));
    fresh(this.overlay, this.width, this.height);
    this.tooltip.hidden = true;
  }

  sketched() {
    this.width = this.host.clientWidth;
    this.height = this.host.clientHeight;
    const place = { left: 0, top: TOOLS, width: this.width, height: this.height - TOOLS };
    return new Sketch(this.chart, place, this.followed, this.zoomed);
  }

  listen() {
    const { host } = this;
    host.addEventListener('pointerdown', (event) => this.startDrag(event));
    host.addEventListener('pointermove', (event) => this.move(event));
    host.addEventListener('pointerup', (event) => this.release(event));
    host.addEventListener('pointerleave', () => this.leave());
    for (const type of ['touchstart', 'touchmove', 'touchend', 'touchcancel']) {
      host.addEventListener(type, (event) => this.pinch(event), { passive: false });
    }
  }

  startDrag(event) {
    if (event.target.closest('.tools')) return;
    this.dragged = position(event, this.host);
  }

  move(event) {
    const here = position(event, this.host);
    if (this.dragged && event.pointerType === 'mouse' && distance(here, this.dragged) > LEAST_DRAG) {
      this.drawSelection(here);
    } else {
      this.point(here);
    }
  }

  leave() {
    this.dragged = null;
    if (this.width) fresh(this.overlay, this.width, this.height);
    this.tooltip.hidden = true;
  }

  drawSelection([right, bottom]) {
    const [left, top] = this.dragged;
    const paper = new CanvasPaper(fresh(this.overlay, this.width, this.height));
    const corners = [[left, top], [right, top], [right, bottom], [left, bottom]];
    paper.area(corners, { colour: COLOURS.accent, alpha: 0.14 });
  }

  release(event) {
    const here = position(event, this.host);
    const from = this.dragged;
    this.dragged = null;
    if (!from || !this.sketch) return;
    if (event.pointerType === 'mouse' && distance(here, from) > LEAST_DRAG) this.zoomTo(from, here);
    else this.pickAt(here);
  }

  /** To what lies between two corners, in pixels of a sketch; too near or too far changes nothing. */
  zoomTo(from, to, sketch = this.sketch) {
    const between = (axis, ...ends) => ends.map((end) => axis.inverse(end)).sort((a, b) => a - b);
    const wanted = { x: between(sketch.x, from[0], to[0]), y: between(sketch.y, from[1], to[1]) };
    if (['x', 'y'].every((axis) => isWithinReach(wanted[axis], this.chart[axis]))) this.zoom(wanted);
  }

  /** About the middle; below 1, nearer. */
  zoomBy(factor) {
    if (!this.sketch) return;
    const [left, top, across, down] = this.sketch.box;
    const [x, y] = [left + across / 2, top + down / 2];
    const reach = [(factor * across) / 2, (factor * down) / 2];
    this.zoomTo([x - reach[0], y - reach[1]], [x + reach[0], y + reach[1]]);
  }

  /** Two fingers keep the places on the plot that they took hold of. */
  pinch(event) {
    if (event.touches.length !== 2 || !this.sketch) {
      this.pinched = null;
      return;
    }
    event.preventDefault();
    this.dragged = null;
    const [one, other] = [...event.touches].map((touch) => position(touch, this.host));
    const grip = { middle: [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2], gap: distance(one, other) };
    if (event.type === 'touchstart' || !this.pinched) {
      this.pinched = { ...grip, sketch: this.sketch };
      return;
    }
    const { middle, gap, sketch } = this.pinched;
    const factor = gap / Math.max(grip.gap, 1);
    const place = (axis, pixel) => middle[axis] + (pixel - grip.middle[axis]) * factor;
    const [left, top, across, down] = sketch.box;
    const corner = (right, below) => [place(0, left + right), place(1, top + below)];
    this.zoomTo(corner(0, 0), corner(across, down), sketch);
  }

  pickAt(here) {
    const hit = this.nearest(here);
    if (hit?.item.id && this.chart.pick) this.chart.pick(hit.item.id);
  }

  point(here) {
    if (!this.sketch) return;
    const hit = this.nearest(here);
    const paper = new CanvasPaper(fresh(this.overlay, this.width, this.height));
    this.tooltip.hidden = !hit;
    this.host.classList.toggle('pickable', Boolean(hit?.item.id && this.chart.pick));
    if (!hit) return;
    const { item, x, y } = hit;
    if (item.width) {
      const { colour, dash } = item;
      paper.within(this.sketch.box, () => paper.line(this.sketch.points(item), { colour, dash, width: 2.6 }));
    }
    paper.symbol(SYMBOLS[0], x, y, { fill: item.colour, stroke: COLOURS.card, width: 1.2, size: 1.25 });
    this.explain(hit);
  }

  explain(hit) {
    const [title, ...rest] = hit.item.tip(hit.i);
    this.tooltip.replaceChildren(
      element('strong', {}, title),
      ...rest.map((line) => element('span', {}, line)),
    );
    const toLeft = hit.x > this.width / 2;
    this.tooltip.style.left = toLeft ? '' : `${hit.x + 14}px`;
    this.tooltip.style.right = toLeft ? `${this.width - hit.x + 14}px` : '';
    this.tooltip.style.top = `${Math.max(4, Math.min(hit.y - 20, this.height - 110))}px`;
  }

  /** The point within reach that is nearest to a place on the plot. */
  nearest(here) {
    const { sketch } = this;
    if (!sketch?.contains(...here)) return null;
    let best = null;
    const offer = (item, i, x, y) => {
      const away = distance(here, [x, y]);
      if (away < (best?.away ?? REACH) && sketch.contains(x, y)) best = { item, i, x, y, away };
    };
    for (const line of this.chart.lines) {
      if (line.tip) line.xs.forEach((x, i) => offer(line, i, sketch.x(x), sketch.y(line.ys[i])));
    }
    for (const dot of this.chart.dots ?? []) offer(dot, 0, sketch.x(dot.x), sketch.y(dot.y));
    return best;
  }
}

/** Whether an axis can be zoomed so: beyond, its numbers tell no two places apart. */
function isWithinReach(range, { range: whole, log }) {
  const share = spanOf(range, log) / spanOf(whole, log);
  return share >= NEAREST && share <= FARTHEST;
}

function tool(text, title, onclick, kind) {
  return element('button', { type: 'button', class: kind, title, 'aria-label': title, onclick }, text);
}

/** An empty canvas of so many CSS pixels, sharp on any display. */
function fresh(canvas, width, height, density = window.devicePixelRatio || 1) {
  const [across, down] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== across || canvas.height !== down) {
    [canvas.width, canvas.height] = [across, down];
  }
  const context = canvas.getContext('2d');
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function position(event, host) {
  const box = host.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function distance([x, y], [u, v]) {
  return Math.hypot(x - u, y - v);
}
