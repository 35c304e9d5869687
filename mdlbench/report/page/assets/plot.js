// A plot on a canvas: lines, areas and dots on linear or logarithmic axes, with hover and zoom.
//
// A chart is {x, y, lines, dots, rules, pick}: axes {label, log, range}; lines {xs, ys, colour, …};
// dots {x, y, low, high, colour, symbol, …}; rules {y, label, strong}. What has a `tip(i)` answers
// to the pointer, what has an `id` can be picked.

const REACH = 22;
const LEAST_DRAG = 8;

class Plot {
  constructor(host, label) {
    this.host = host;
    this.base = element('canvas', { role: 'img', 'aria-label': label });
    this.overlay = element('canvas', { class: 'overlay', 'aria-hidden': 'true' });
    this.tooltip = element('div', { class: 'tooltip', role: 'status', hidden: true });
    this.reset = element('button', { type: 'button', class: 'reset', hidden: true }, 'Reset zoom');
    this.host.classList.add('plot');
    this.host.append(this.base, this.overlay, this.tooltip, this.reset);
    this.highlighted = null;
    this.zoomed = null;
    this.dragged = null;
    this.reset.addEventListener('click', () => this.zoom(null));
    this.listen();
    this.awaited = null;
    new ResizeObserver(() => this.fit()).observe(host);
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

  show(chart) {
    this.chart = chart;
    this.zoom(null);
  }

  zoom(ranges) {
    this.zoomed = ranges;
    this.reset.hidden = ranges === null;
    this.redraw();
  }

  highlight(id) {
    this.highlighted = id;
    this.redraw();
  }

  draw() {
    if (!this.chart || !this.host.clientWidth) return;
    this.measure();
    const context = fresh(this.base, this.width, this.height);
    this.drawAxes(context);
    context.save();
    context.beginPath();
    context.rect(this.left, this.top, this.across, this.down);
    context.clip();
    for (const line of this.chart.lines) if (line.id !== this.highlighted) this.drawLine(context, line);
    for (const line of this.chart.lines) {
      if (line.id && line.id === this.highlighted) this.drawLine(context, line);
    }
    context.restore();
    this.drawRules(context);
    for (const dot of this.chart.dots ?? []) this.drawDot(context, dot);
    for (const dot of this.chart.dots ?? []) {
      if (dot.id && dot.id === this.highlighted) this.drawDot(context, dot);
    }
    fresh(this.overlay, this.width, this.height);
    this.tooltip.hidden = true;
  }

  measure() {
    this.width = this.host.clientWidth;
    this.height = this.host.clientHeight;
    [this.left, this.top] = [58, 10];
    this.across = this.width - this.left - 14;
    this.down = this.height - this.top - 42;
    const { x, y } = this.chart;
    this.x = scale(this.zoomed?.x ?? x.range, x.log, this.left, this.across);
    this.y = scale(this.zoomed?.y ?? y.range, y.log, this.top + this.down, -this.down);
  }

  drawAxes(context) {
    const { left, top, across, down } = this;
    context.font = FONT;
    context.lineWidth = 1;
    context.strokeStyle = GRID;
    context.fillStyle = FAINT;
    context.textAlign = 'center';
    for (const tick of apart(this.x.ticks, this.x, 44)) {
      stroke(context, [this.x(tick), top], [this.x(tick), top + down]);
      context.fillText(tickText(tick, this.chart.x), this.x(tick), top + down + 16);
    }
    context.textAlign = 'right';
    for (const tick of apart(this.y.ticks, this.y, 16)) {
      stroke(context, [left, this.y(tick)], [left + across, this.y(tick)]);
      context.fillText(tickText(tick, this.chart.y), left - 7, this.y(tick) + 4);
    }
    this.drawLabels(context);
  }

  drawLabels(context) {
    context.fillStyle = INK;
    context.textAlign = 'center';
    context.fillText(this.chart.x.label, this.left + this.across / 2, this.height - 7);
    context.save();
    context.translate(12, this.top + this.down / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(this.chart.y.label, 0, 0);
    context.restore();
  }

  drawRules(context) {
    for (const { y, label, strong } of this.chart.rules ?? []) {
      const height = this.y(y);
      if (!(height >= this.top && height <= this.top + this.down)) continue;
      context.setLineDash([5, 4]);
      context.strokeStyle = strong ? INK : '#b8c2cc';
      context.lineWidth = strong ? 1.3 : 1;
      stroke(context, [this.left, height], [this.left + this.across, height]);
      context.setLineDash([]);
      context.font = strong ? `600 ${FONT}` : FONT;
      context.textAlign = 'right';
      context.fillStyle = strong ? INK : FAINT;
      context.strokeStyle = '#fff';
      context.lineWidth = 4;
      context.strokeText(label, this.left + this.across - 4, height - 5);
      context.fillText(label, this.left + this.across - 4, height - 5);
    }
    context.font = FONT;
  }

  drawLine(context, line) {
    const isHighlighted = line.id && line.id === this.highlighted;
    const recedes = this.highlighted && line.id && !isHighlighted;
    context.globalAlpha = recedes ? 0.22 : 0.85;
    if (line.area) this.fillArea(context, line);
    if (line.width) this.trace(context, line, isHighlighted ? 3.2 : line.width);
    if (line.symbol) this.mark(context, line);
    context.globalAlpha = 1;
  }

  trace(context, line, width) {
    context.strokeStyle = line.colour;
    context.lineWidth = width;
    context.lineJoin = 'round';
    context.setLineDash(line.dash ?? []);
    context.beginPath();
    line.xs.forEach((x, i) => context.lineTo(this.x(x), this.y(line.ys[i])));
    context.stroke();
    context.setLineDash([]);
  }

  fillArea(context, line) {
    context.fillStyle = line.colour;
    context.beginPath();
    line.xs.forEach((x, i) => context.lineTo(this.x(x), this.y(line.ys[i])));
    for (let i = line.xs.length - 1; i >= 0; i -= 1) {
      context.lineTo(this.x(line.xs[i]), this.y(line.area[i]));
    }
    context.fill();
  }

  /** The line's symbol at its points; at some of them only where it says so. */
  mark(context, line) {
    const marks = line.marks ?? line.xs.map((_, i) => i);
    for (const i of marks) {
      stamp(context, line, this.x(line.xs[i]), this.y(line.ys[i]));
    }
  }

  drawDot(context, dot) {
    const [x, y] = [this.x(dot.x), this.y(dot.y)];
    if (!this.contains(x, y)) return;
    const isHighlighted = dot.id === this.highlighted;
    context.globalAlpha = this.highlighted && !isHighlighted ? 0.25 : 1;
    context.strokeStyle = dot.colour;
    context.lineWidth = 1.4;
    if (dot.low !== null) stroke(context, [x, this.y(dot.low)], [x, this.y(dot.high)]);
    stamp(context, dot, x, y, isHighlighted ? 1.7 : 1);
    context.globalAlpha = 1;
  }

  contains(x, y) {
    return x >= this.left - 1 && x <= this.left + this.across + 1 && y >= this.top - 1
      && y <= this.top + this.down + 1;
  }

  listen() {
    this.host.addEventListener('pointerdown', (event) => this.startDrag(event));
    this.host.addEventListener('pointermove', (event) => this.move(event));
    this.host.addEventListener('pointerup', (event) => this.release(event));
    this.host.addEventListener('pointerleave', () => this.leave());
  }

  startDrag(event) {
    if (event.target === this.reset) return;
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

  drawSelection(here) {
    const context = fresh(this.overlay, this.width, this.height);
    context.fillStyle = 'rgba(0, 114, 178, 0.12)';
    const [x, y] = this.dragged;
    context.fillRect(x, y, here[0] - x, here[1] - y);
  }

  release(event) {
    const here = position(event, this.host);
    const from = this.dragged;
    this.dragged = null;
    if (!from || event.target === this.reset) return;
    if (event.pointerType === 'mouse' && distance(here, from) > LEAST_DRAG) this.zoomTo(from, here);
    else this.pickAt(here);
  }

  zoomTo(from, to) {
    const between = (axis, ...ends) => ends.map((end) => axis.inverse(end)).sort((a, b) => a - b);
    this.zoom({ x: between(this.x, from[0], to[0]), y: between(this.y, from[1], to[1]) });
  }

  pickAt(here) {
    const hit = this.nearest(here);
    if (hit?.item.id && this.chart.pick) this.chart.pick(hit.item.id);
  }

  point(here) {
    const hit = this.nearest(here);
    const context = fresh(this.overlay, this.width, this.height);
    this.tooltip.hidden = !hit;
    this.host.classList.toggle('pickable', Boolean(hit?.item.id && this.chart.pick));
    if (!hit) return;
    if (hit.item.width) this.trace(context, hit.item, 2.6);
    context.fillStyle = hit.item.colour;
    context.strokeStyle = '#fff';
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(hit.x, hit.y, 5, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
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
    if (!this.chart || !this.contains(...here)) return null;
    let best = null;
    const offer = (item, i, x, y) => {
      const away = distance(here, [x, y]);
      if (away < (best?.away ?? REACH) && this.contains(x, y)) best = { item, i, x, y, away };
    };
    for (const line of this.chart.lines) {
      if (line.tip) line.xs.forEach((x, i) => offer(line, i, this.x(x), this.y(line.ys[i])));
    }
    for (const dot of this.chart.dots ?? []) offer(dot, 0, this.x(dot.x), this.y(dot.y));
    return best;
  }
}

const FONT = '12px system-ui, -apple-system, "Segoe UI", sans-serif';

/** An empty canvas of so many CSS pixels, sharp on any display. */
function fresh(canvas, width, height) {
  const density = window.devicePixelRatio || 1;
  const [across, down] = [Math.round(width * density), Math.round(height * density)];
  if (canvas.width !== across || canvas.height !== down) {
    [canvas.width, canvas.height] = [across, down];
  }
  const context = canvas.getContext('2d');
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function stroke(context, from, to) {
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

function stamp(context, { symbol, colour, hollow }, x, y, size = 1) {
  context.save();
  context.translate(x, y);
  context.scale(size, size);
  context.fillStyle = hollow ? '#fff' : colour;
  const path = new Path2D(symbol);
  context.fill(path);
  context.strokeStyle = hollow ? colour : '#fff';
  context.lineWidth = hollow ? 1.3 : 0.7;
  context.stroke(path);
  context.restore();
}

function position(event, host) {
  const box = host.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

function distance([x, y], [u, v]) {
  return Math.hypot(x - u, y - v);
}
