// Plots as inline SVG, drawn at the width they have, each with a legend and the same data as a table. Series differ by
// colour and by marker. Numbers that are not finite are left out; on a logarithmic axis, so is what is not positive.

import {el, replace, svg} from './dom.js';
import {number} from './format.js';
import {table} from './ui.js';

const MARGIN = {
  top: 12,
  right: 16,
  bottom: 44
};
// Of a character of a label, pixels.
const CHARACTER = 7;
const MARKERS = ['circle', 'square', 'triangle', 'diamond', 'cross'];
const COLORS = 8;

// Round values that label an axis; the first is at most, the last at least what is shown.
export function linearTicks(low, high, wanted = 5) {
  if (!(high > low)) {
    const pad = low === 0 ? 1 : Math.abs(low) / 2;
    return linearTicks(low - pad, low + pad, wanted);
  }
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? 10 * power;
  const ticks = [];
  for (let i = Math.floor(low / step + 1e-9); i * step < high + step * (1 - 1e-9); ++i) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

// Powers of ten, between ends that are 1, 2 or 5 times one; those in between too where there are few.
export function logTicks(low, high) {
  const from = Math.floor(Math.log10(low) + 1e-9);
  const to = Math.ceil(Math.log10(high) - 1e-9);
  const fine = [];
  for (let e = from; e <= to; ++e) {
    for (const factor of [1, 2, 5]) fine.push(Number(`${factor}e${e}`));
  }
  const first = fine.filter((t) => t <= low * (1 + 1e-9)).pop() ?? fine[0];
  const last = fine.find((t) => t >= high * (1 - 1e-9) && t > first) ?? 10 ** (to + 1);
  const every = Math.max(1, Math.ceil((to - from) / 6));
  const between = fine.filter((t) => t > first && t < last);
  const powers = between.filter((t) => {
    const e = Math.round(Math.log10(t));
    return Number(`1e${e}`) === t && (e - from) % every === 0;
  });
  return [first, ...(between.length <= 5 ? between : powers), last];
}

function scaleOf(axis, values, from, to) {
  const log = axis.log === true;
  const shown = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  if (axis.zero && !log) shown.push(0);
  if (shown.length === 0) shown.push(...(log ? [0.1, 1] : [0, 1]));
  const low = shown.reduce((a, b) => Math.min(a, b));
  const high = shown.reduce((a, b) => Math.max(a, b));
  const ticks = log ? logTicks(low, high) : linearTicks(low, high, axis.ticks ?? 5);
  const map = log ? Math.log10 : (v) => v;
  const [a, b] = [map(ticks[0]), map(ticks[ticks.length - 1])];
  const place = (v) => from + ((map(v) - a) / (b - a)) * (to - from);
  return {ticks, shows: (v) => Number.isFinite(v) && (!log || v > 0), at: place};
}

export const seriesClass = (index) => `series-${index % COLORS}`;

function markerNode(kind, x, y, size) {
  const r = size;
  switch (kind) {
    case 'square':
      return svg('rect', {x: x - r, y: y - r, width: 2 * r, height: 2 * r});
    case 'triangle':
      return svg('path', {d: `M${x} ${y - 1.2 * r}L${x + 1.2 * r} ${y + r}H${x - 1.2 * r}Z`});
    case 'diamond':
      return svg('path', {d: `M${x} ${y - 1.4 * r}L${x + 1.4 * r} ${y}L${x} ${y + 1.4 * r}L${x - 1.4 * r} ${y}Z`});
    case 'cross':
      return svg(
          'path', {class: 'stroke', d: `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`});
    default:
      return svg('circle', {cx: x, cy: y, r});
  }
}

function legendOf(series) {
  if (series.length < 2) return null;
  return el(
      'ul', {class: 'legend'},
      series.map(
          (s, i) =>
              el('li', {class: seriesClass(i)},
                 svg('svg', {width: 14, height: 14, 'aria-hidden': 'true'},
                     markerNode(s.bars ? 'square' : MARKERS[i % MARKERS.length], 7, 7, 4.5)),
                 s.name)));
}

function drawAxes(root, spec, x, y, box) {
  const grid = svg('g', {class: 'grid'});
  for (const tick of y.ticks) {
    const at = y.at(tick);
    grid.append(
        svg('line', {x1: box.left, x2: box.right, y1: at, y2: at}),
        svg('text', {x: box.left - 8, y: at + 4, 'text-anchor': 'end'}, number(tick)));
  }
  const labels = spec.x.labels ?? x.ticks.map((tick) => [tick, number(tick)]);
  let free = -Infinity;
  for (const [value, words] of labels) {
    const at = x.at(value);
    const half = 3.6 * words.length;
    if (at - half < free || at < box.left - 1 || at > box.right + 1) continue;
    free = at + half + 6;
    grid.append(
        svg('line', {class: 'tick', x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4}),
        svg('text', {x: at, y: box.bottom + 17, 'text-anchor': 'middle'}, words));
  }
  grid.append(svg('line', {class: 'axis', x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom}));
  root.append(
      grid,
      svg('text', {class: 'axis-label', x: (box.left + box.right) / 2, y: box.bottom + 36, 'text-anchor': 'middle'},
          spec.x.label ?? ''),
      svg('text', {
        class: 'axis-label',
        x: 14,
        y: (box.top + box.bottom) / 2,
        'text-anchor': 'middle',
        transform: `rotate(-90 14 ${(box.top + box.bottom) / 2})`
      },
          spec.y.label ?? ''));
}

function drawBars(group, points, x, y, box, width) {
  for (const point of points) {
    const top = y.at(point.y);
    group.append(svg(
        'rect', {class: 'bar', x: x.at(point.x) - width / 2, y: top, width, height: Math.max(0.5, box.bottom - top)},
        svg('title', {}, point.note ?? number(point.y))));
  }
}

function drawPoints(group, series, points, x, y, box, kind) {
  if (series.line !== false && points.length > 1) {
    group.append(
        svg('path', {class: 'line', d: points.map((p, i) => `${i ? 'L' : 'M'}${x.at(p.x)} ${y.at(p.y)}`).join('')}));
  }
  for (const point of points) {
    const [px, py] = [x.at(point.x), y.at(point.y)];
    if (point.high > point.low) {
      // On a logarithmic axis an interval that reaches 0 goes down to the edge.
      const [a, b] = [y.shows(point.low) ? y.at(point.low) : box.bottom, y.at(point.high)];
      group.append(
          svg('path', {class: 'interval', d: `M${px} ${a}V${b}M${px - 4} ${a}H${px + 4}M${px - 4} ${b}H${px + 4}`}));
    }
    const dot = markerNode(kind, px, py, points.length > 40 ? 2.5 : 4);
    dot.append(svg('title', {}, point.note ?? `${number(point.x)}: ${number(point.y)}`));
    group.append(dot);
  }
}

function draw(spec, width) {
  const height = spec.height ?? Math.min(320, Math.max(220, width * 0.45));
  const points = spec.series.flatMap((s) => s.points);
  const bars = spec.series.some((s) => s.bars);
  const heights = points.flatMap((p) => (p.high > p.low ? [p.y, p.low, p.high] : [p.y]));
  const y = scaleOf({...spec.y, zero: bars || spec.y.zero}, heights, height - MARGIN.bottom, MARGIN.top);
  // Room for the axis' label, upright, and the longest of its numbers.
  const left = 34 + CHARACTER * Math.max(...y.ticks.map((tick) => number(tick).length));
  const box = {left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom};
  const places = points.map((p) => p.x);
  const last = places.reduce((a, b) => Math.max(a, b), 0);
  const x = bars ?
      {ticks: [], shows: Number.isFinite, at: (v) => box.left + ((v + 0.5) / (last + 1)) * (box.right - box.left)} :
      scaleOf(spec.x, places, box.left, box.right);
  const root = svg('svg', {
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: 'img',
    'aria-label': `${spec.title}. The same data follows as a table.`
  });
  drawAxes(root, spec, x, y, box);
  spec.series.forEach((series, i) => {
    const group = svg('g', {class: seriesClass(i)});
    const shown = series.points.filter((p) => x.shows(p.x) && y.shows(p.y));
    if (series.bars)
      drawBars(group, shown, x, y, box, Math.max(1, (0.8 * (box.right - box.left)) / (last + 1)));
    else
      drawPoints(group, series, shown, x, y, box, MARKERS[i % MARKERS.length]);
    root.append(group);
  });
  return root;
}

// spec: {title, x: {label, log, labels: [[x, words]]}, y: {label, log, zero}, columns: [words], rows: [[cell]],
//        series: [{name, line, bars, points: [{x, y, low, high, note}]}]}
// A plot has bars in all its series or in none; bars stand at x = 0, 1, 2, ... `signal` ends its watching of the width.
export class Plot {
  constructor(signal) {
    this.host = el('div', {class: 'plot-host'});
    this.legend = el('div');
    this.title = el('figcaption');
    this.data = el('details', {}, el('summary', {}, 'Data as a table'), el('div'));
    this.node = el('figure', {class: 'plot', hidden: true}, this.title, this.legend, this.host, this.data);
    this.width = 0;
    this.due = 0;
    this.data.addEventListener('toggle', () => this.fillTable());
    const observer = new ResizeObserver(() => this.drawSoon());
    observer.observe(this.host);
    signal.addEventListener('abort', () => observer.disconnect(), {once: true});
  }

  set(spec) {
    this.spec = spec;
    this.width = 0;
    this.node.hidden = !spec.series.some((s) => s.points.length > 0);
    replace(this.title, spec.title);
    replace(this.legend, legendOf(spec.series));
    this.fillTable();
    this.drawSoon();
  }

  // Many changes in a moment are drawn once.
  drawSoon() {
    if (this.due || !this.spec) return;
    this.due = requestAnimationFrame(() => {
      this.due = 0;
      const width = Math.floor(this.host.clientWidth);
      if (width < 100 || width === this.width) return;
      this.width = width;
      replace(this.host, draw(this.spec, width));
    });
  }

  // A table of hundreds of rows is made only for those who open it.
  fillTable() {
    if (!this.data.open || !this.spec) return;
    replace(this.data.lastElementChild, table(this.spec.title, this.spec.columns, this.spec.rows));
  }
}
