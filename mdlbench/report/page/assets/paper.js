// Two papers to draw on, with the same strokes: a canvas, and an SVG document.

const TYPEFACE = 'system-ui, -apple-system, "Segoe UI", sans-serif';
const TYPE_SIZE = 12;

class CanvasPaper {
  constructor(context) {
    this.context = context;
  }

  /** What `draw` draws is seen inside the box only. */
  within([left, top, width, height], draw) {
    this.context.save();
    this.context.beginPath();
    this.context.rect(left, top, width, height);
    this.context.clip();
    draw();
    this.context.restore();
  }

  line(points, { colour, width = 1, dash = [], alpha = 1 }) {
    const { context } = this;
    Object.assign(context, { strokeStyle: colour, lineWidth: width, lineJoin: 'round', globalAlpha: alpha });
    context.setLineDash(dash);
    this.outline(points);
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
  }

  area(points, { colour, alpha = 1 }) {
    Object.assign(this.context, { fillStyle: colour, globalAlpha: alpha });
    this.outline(points);
    this.context.fill();
    this.context.globalAlpha = 1;
  }

  outline(points) {
    this.context.beginPath();
    for (const point of points) this.context.lineTo(...point);
  }

  symbol(path, x, y, { fill, stroke, width, size = 1, alpha = 1 }) {
    const { context } = this;
    const shape = new Path2D(path);
    context.save();
    context.translate(x, y);
    context.scale(size, size);
    Object.assign(context, { fillStyle: fill, strokeStyle: stroke, lineWidth: width, globalAlpha: alpha });
    context.fill(shape);
    context.stroke(shape);
    context.restore();
  }

  /** With a `halo`, on a rim of that colour; `upright` is turned by a quarter to the left. */
  text(words, x, y, { colour, align = 'left', bold = false, upright = false, halo = null }) {
    const { context } = this;
    context.save();
    context.translate(x, y);
    if (upright) context.rotate(-Math.PI / 2);
    Object.assign(context, { font: `${bold ? '600 ' : ''}${TYPE_SIZE}px ${TYPEFACE}`, textAlign: align, fillStyle: colour });
    if (halo) {
      Object.assign(context, { strokeStyle: halo, lineWidth: 4, lineJoin: 'round' });
      context.strokeText(words, 0, 0);
    }
    context.fillText(words, 0, 0);
    context.restore();
  }
}

class SvgPaper {
  constructor(width, height) {
    this.root = drawing('svg', {
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      'font-family': TYPEFACE,
      'font-size': TYPE_SIZE,
    });
    this.host = this.root;
    this.boxes = 0;
  }

  within([x, y, width, height], draw) {
    const id = `box-${this.boxes += 1}`;
    const group = drawing('g', { 'clip-path': `url(#${id})` });
    this.root.append(drawing('clipPath', { id }, drawing('rect', { x, y, width, height })), group);
    this.host = group;
    draw();
    this.host = this.root;
  }

  line(points, { colour, width = 1, dash = [], alpha = 1 }) {
    this.host.append(drawing('path', {
      d: outline(points),
      fill: 'none',
      stroke: colour,
      'stroke-width': width,
      'stroke-linejoin': 'round',
      'stroke-dasharray': dash.length ? dash.join(' ') : null,
      opacity: alpha < 1 ? alpha : null,
    }));
  }

  area(points, { colour, alpha = 1 }) {
    this.host.append(drawing('path', { d: outline(points), fill: colour, opacity: alpha < 1 ? alpha : null }));
  }

  symbol(path, x, y, { fill, stroke, width, size = 1, alpha = 1 }) {
    this.host.append(drawing('path', {
      d: path,
      transform: `translate(${x.toFixed(2)} ${y.toFixed(2)}) scale(${size})`,
      fill,
      stroke,
      'stroke-width': width,
      opacity: alpha < 1 ? alpha : null,
    }));
  }

  text(words, x, y, { colour, align = 'left', bold = false, upright = false, halo = null }) {
    const turn = upright ? ' rotate(-90)' : '';
    this.host.append(drawing('text', {
      transform: `translate(${x.toFixed(2)} ${y.toFixed(2)})${turn}`,
      fill: colour,
      'text-anchor': { left: 'start', center: 'middle', right: 'end' }[align],
      'font-weight': bold ? 600 : null,
      stroke: halo,
      'stroke-width': halo ? 4 : null,
      'stroke-linejoin': halo ? 'round' : null,
      'paint-order': halo ? 'stroke' : null,
    }, words));
  }
}

function outline(points) {
  return points.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(2)} ${y.toFixed(2)}`).join('');
}

/** How wide a text is, in pixels. */
function widthOf(words, bold = false) {
  widthOf.context ??= document.createElement('canvas').getContext('2d');
  widthOf.context.font = `${bold ? '600 ' : ''}${TYPE_SIZE}px ${TYPEFACE}`;
  return widthOf.context.measureText(words).width;
}

/** The text, or as much of its beginning as is so wide. */
function shortened(words, width) {
  if (widthOf(words) <= width) return words;
  let end = words.length;
  while (end > 1 && widthOf(`${words.slice(0, end)}…`) > width) end -= 1;
  return `${words.slice(0, end)}…`;
}
