// What is known of a model's tensors by their names, and the plots of their distortion.

import {number, shortId} from './format.js';

const KINDS = [
  ['q_proj', 'query'],
  ['k_proj', 'key'],
  ['v_proj', 'value'],
  ['o_proj', 'attention out'],
  ['gate_proj', 'gate'],
  ['up_proj', 'up'],
  ['down_proj', 'down'],
];

// "model.layers.3.mlp.up_proj" -> layer 3, kind 5 of KINDS. Others come last, in a kind of their own.
export function placeOf(name) {
  const layer = /\.layers\.(\d+)\./.exec(name);
  const kind = KINDS.findIndex(([suffix]) => name.endsWith(suffix));
  return {layer: layer ? Number(layer[1]) : Infinity, kind: kind < 0 ? KINDS.length : kind};
}

const kindName = (kind) => (kind < KINDS.length ? KINDS[kind][1] : 'other');

export const METRICS = {
  distortion: 'Distortion (relative to the weights)',
  weightedError: 'Weighted error (by the inputs)',
  bpw: 'Bits per weight',
};

// Whether a metric says anything: full precision has no error, uncalibrated tensors no weighted one.
export const usableMetrics = (tensors) => Object.keys(METRICS).filter((m) => tensors.some((t) => t[m] > 0));

function sorted(tensors) {
  return tensors.map((tensor) => ({tensor, ...placeOf(tensor.name)}))
      .sort((a, b) => a.layer - b.layer || a.kind - b.kind || (a.tensor.name < b.tensor.name ? -1 : 1));
}

const tensorRow = (t) =>
    [t.name, `${t.rows} × ${t.cols}`, number(t.bpw), number(t.distortion),
     t.weightedError > 0 ? number(t.weightedError) : '–'];
export const TENSOR_COLUMNS = ['Tensor', 'Shape', 'bpw', 'Distortion', 'Weighted error'];

// A bar for each tensor, layer by layer, coloured by kind.
export function tensorBars(tensors, metric) {
  const all = sorted(tensors);
  const series = new Map();
  const spans = new Map();  // layer -> its first and last bar
  all.forEach(({tensor, layer, kind}, i) => {
    spans.set(layer, [spans.get(layer)?.[0] ?? i, i]);
    if (!series.has(kind)) series.set(kind, {name: kindName(kind), bars: true, points: []});
    series.get(kind).points.push({x: i, y: tensor[metric], note: `${tensor.name}: ${number(tensor[metric])}`});
  });
  const labels =
      [...spans].map(([layer, [from, to]]) => [(from + to) / 2, layer === Infinity ? 'other' : String(layer)]);
  return {
    title: `${METRICS[metric]}, tensor by tensor`,
    x: {label: 'Layer', labels},
    y: {label: METRICS[metric].split(' (')[0]},
    series: [...series.keys()].sort((a, b) => a - b).map((kind) => series.get(kind)),
    columns: TENSOR_COLUMNS,
    rows: all.map(({tensor}) => tensorRow(tensor)),
  };
}

// The mean over the tensors of each layer, weighted by their sizes: a line for each model. models: [{name, tensors}].
export function layerLines(models, metric) {
  const rows = [];
  const series = models.map(({name, tensors}) => {
    const layers = new Map();
    for (const tensor of tensors) {
      const {layer} = placeOf(tensor.name);
      if (layer === Infinity) continue;
      const weights = Number(tensor.rows) * Number(tensor.cols);
      const sum = layers.get(layer) ?? {weights: 0, total: 0};
      layers.set(layer, {weights: sum.weights + weights, total: sum.total + weights * tensor[metric]});
    }
    const points = [...layers].sort(([a], [b]) => a - b).map(([layer, {weights, total}]) => {
      rows.push([name, String(layer), number(total / weights)]);
      return {x: layer, y: total / weights, note: `${name}, layer ${layer}: ${number(total / weights)}`};
    });
    return {name, points};
  });
  return {
    title: `${METRICS[metric]}, mean of each layer`,
    x: {label: 'Layer'},
    y: {label: METRICS[metric].split(' (')[0], zero: true},
    series,
    columns: ['Artifact', 'Layer', METRICS[metric].split(' (')[0]],
    rows,
  };
}

// Size against quality: what a ladder, a search or a study has measured. One line for each method.
export function rateCurve(candidates) {
  const series = new Map();
  const several = new Set(candidates.map((c) => c.checkpoint)).size > 1;
  const methodOf = (c) =>
      `${several ? `${shortId(c.checkpoint)}: ` : ''}${c.method || 'candidate'}${c.mixed ? ', mixed' : ''}`;
  for (const candidate of candidates) {
    if (!candidate.quality) continue;
    const method = methodOf(candidate);
    if (!series.has(method)) series.set(method, {name: method, points: []});
    const q = candidate.quality;
    series.get(method).points.push({
      x: candidate.bpw,
      y: q.klMean,
      low: q.klCi95Low,
      high: q.klCi95High,
      note: `${method}, ${number(candidate.bpw)} bpw: KL ${number(q.klMean)} (${number(q.klCi95Low)} to ${
          number(q.klCi95High)})`
    });
  }
  for (const {points} of series.values()) points.sort((a, b) => a.x - b.x);
  const measured = candidates.filter((c) => c.quality);
  return {
    title: 'Size against quality: mean KL with its 95 % interval',
    x: {label: 'Bits per weight, norms and scales included'},
    y: {label: 'Mean KL, nats a token', log: true},
    series: [...series.values()],
    columns: ['Method', 'bpw', 'Mean KL', '95 % interval'],
    rows: measured.map(
        (c) =>
            [methodOf(c), number(c.bpw), number(c.quality.klMean),
             `${number(c.quality.klCi95Low)} to ${number(c.quality.klCi95High)}`]),
  };
}
