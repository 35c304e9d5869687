// The lower convex hull of several curves: what time-sharing among their steps achieves.

const CHORD_PIECES = 16;
// More families than these are told by the pointer alone.
const MOST_LABELLED = 14;

/** Vertices of the lower hull of points [rate, loss, …], both linear, by rising rate (maths §8). */
function lowerHull(points) {
  const hull = [];
  for (const point of [...points].sort((one, other) => one[0] - other[0] || one[1] - other[1])) {
    if (hull.length && point[1] >= hull.at(-1)[1]) continue;
    while (hull.length > 1 && !bendsUp(hull.at(-2), hull.at(-1), point)) hull.pop();
    hull.push(point);
  }
  return hull;
}

/** Whether the middle point lies below the chord of the others. */
function bendsUp(one, middle, other) {
  return (middle[0] - one[0]) * (other[1] - one[1]) > (middle[1] - one[1]) * (other[0] - one[0]);
}

/** Points along the chords, close enough to be seen as they are on logarithmic axes. */
function alongChords(vertices) {
  const pieces = vertices.slice(1).flatMap(([rate, loss], i) => {
    const [before, worse] = vertices[i];
    return Array.from({ length: CHORD_PIECES }, (_, k) => {
      const part = (k + 1) / CHORD_PIECES;
      return [before + part * (rate - before), worse + part * (loss - worse)];
    });
  });
  return [vertices[0].slice(0, 2), ...pieces];
}

/** The hull of SAEs over a loss as a line of a chart; null where there is none. */
function hullLine(saes, metric, looks, name) {
  const points = saes.flatMap((sae) => sae.points.bits.map((bits, i) => [bits, sae.points[metric][i], sae]));
  const vertices = lowerHull(points);
  if (vertices.length < 2) return null;
  return {
    ...looks,
    name,
    kind: name,
    xs: vertices.map(([bits]) => bits),
    ys: vertices.map(([, loss]) => loss),
    path: alongChords(vertices),
    tip: (i) => [
      name,
      `vertex of ${vertices[i][2].label}`,
      `${fixed(vertices[i][0], 2)} bits/token`,
      `${METRICS[metric].name} ${lossText(vertices[i][1], metric)}${METRICS[metric].unit}`,
    ],
  };
}

/** SAEs that may stand in a hull: trained, measured as a whole, unchanged since. */
function forHulls(saes) {
  const site = currentSite();
  const isWhole = (sae) => !['partial', 'edited'].includes(rowOf(currentTable(), sae, site).status);
  return saes.filter((sae) => !sae.baseline && !sae.partial && isWhole(sae));
}

/** The hull of all that is drawn, or one of each family, as `mdlbench compare` has them. */
function hullLines(shown, metric) {
  const saes = forHulls(shown);
  if (!state.families) {
    return [hullLine(saes, metric, looksOfHull(), HULL_OF_ALL)].filter(Boolean);
  }
  const found = families(saes);
  const labelled = found.size <= MOST_LABELLED;
  return [...found].map(([name, members]) => {
    const looks = { ...looksOf(members[0]), width: 2.2, labelled };
    return hullLine(members, metric, looks, name);
  }).filter(Boolean);
}

function families(saes) {
  const found = new Map();
  for (const sae of saes) {
    const name = sae.quantiser ? `${sae.architecture} [${sae.quantiser}]` : sae.architecture;
    found.set(name, [...(found.get(name) ?? []), sae]);
  }
  return found;
}

function looksOfHull() {
  return referenceLooks().find((looks) => looks.kind === HULL_OF_ALL);
}
