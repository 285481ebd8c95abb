// Artifacts and their reports, one or several side by side.

import {call, get, listAll, resource} from './api.js';
import {el, KeyedList, replace, setText} from './dom.js';
import {downloadLink} from './download.js';
import {bytes, count, idOf, number, percent, shortId, time} from './format.js';
import {Plot} from './plot.js';
import {loadDialog} from './served.js';
import {layerLines, METRICS, tensorBars, usableMetrics} from './tensors.js';
import {
  announce,
  confirmDialog,
  copyable,
  empty,
  errorBox,
  field,
  select,
  table,
  whileVisible,
  withBusy
} from './ui.js';

const REFRESH_MS = 30000;
const MAX_SHOWN = 8;
const title = (artifact) => artifact.displayName || `${shortId(artifact.name)}`;

function card(first, shown, toggle, refresh) {
  const place = el('div');
  const box = el('input', {type: 'checkbox', onchange: () => toggle(first, box.checked)});
  const label = title(first);
  return {
    node: el(
        'li', {class: 'card'}, el('div', {class: 'card-head'}, el('label', {class: 'check'}, box, el('h2', {}, label))),
        el('p', {class: 'sub'},
           `${number(first.bpw)} bpw · ${bytes(first.sizeBytes)} · ${first.architecture} · ${
               time(first.createTime)} · `,
           copyable(first.name, shortId(first.name))),
        place,
        el('div', {class: 'actions'},
           el('button', {
             type: 'button',
             'aria-label': `Load ${label}`,
             onclick: (event) => withBusy(
                 event.currentTarget, place,
                 async () => {
                   if (await loadDialog(first.name, label)) location.hash = '#/models';
                 })
           },
              'Load'),
           el('button', {
             type: 'button',
             'aria-label': `Delete ${label}`,
             onclick: (event) => withBusy(
                 event.currentTarget, place,
                 async () => {
                   if (!await confirmDialog(
                           'Delete this artifact?', `${label} (${bytes(first.sizeBytes)}) is deleted, with its report.`,
                           'Delete the artifact'))
                     return;
                   await call('DELETE', resource(first.name));
                   announce('The artifact is deleted');
                   toggle(first, false);
                   refresh();
                 })
           },
              'Delete'))),
    update() {
      box.checked = shown.has(idOf(first.name));
    },
  };
}

// The rows of the comparison: name, value of a report, and how values are ranked (-1: less is better, 0: not at all).
const QUALITY_ROWS = [
  ['Bits per weight', (r) => number(r.artifact.bpw), (r) => r.artifact.bpw, -1],
  ['Size', (r) => bytes(r.artifact.sizeBytes), (r) => Number(r.artifact.sizeBytes), -1],
  ['Codec', (r) => r.artifact.codec, null, 0],
  ['Base perplexity', (r) => number(r.quality.basePerplexity, 5), null, 0],
  ['Quantized perplexity', (r) => number(r.quality.quantizedPerplexity, 5), (r) => r.quality.quantizedPerplexity, -1],
  [
    'Change', (r) => `${percent(r.quality.perplexityChange, 2)} ± ${percent(r.quality.perplexityChangeStderr, 2)}`,
    (r) => r.quality.perplexityChange, -1
  ],
  ['Mean KL, nats a token', (r) => number(r.quality.klMean), (r) => r.quality.klMean, -1],
  ['95 % interval', (r) => `${number(r.quality.klCi95Low)} to ${number(r.quality.klCi95High)}`, null, 0],
  ['KL median', (r) => number(r.quality.klP50), (r) => r.quality.klP50, -1],
  ['KL 90 %', (r) => number(r.quality.klP90), (r) => r.quality.klP90, -1],
  ['KL 99 %', (r) => number(r.quality.klP99), (r) => r.quality.klP99, -1],
  ['KL 99.9 %', (r) => number(r.quality.klP999), (r) => r.quality.klP999, -1],
  ['KL largest', (r) => number(r.quality.klMax), (r) => r.quality.klMax, -1],
  ['KL, second half of windows', (r) => number(r.quality.secondHalfKlMean), (r) => r.quality.secondHalfKlMean, -1],
  ['Same first choice', (r) => percent(r.quality.top1Agreement, 2), (r) => r.quality.top1Agreement, 1],
  [
    'Measured on',
    (r) => `${r.quality.textSource}, ${count(r.quality.scoredTokens)} tokens in ${count(r.quality.windows)} windows${
        r.quality.chatTemplate ? ', as chat' : ''}`,
    null, 0
  ],
  ['Text digest', (r) => copyable(r.quality.textDigest, r.quality.textDigest.slice(0, 10)), null, 0],
  ['Kernels', (r) => r.quality.kernels, null, 0],
];

// The best of a row is marked, in words too, where more than one is shown and they were measured on the same text.
function qualityTable(reports) {
  const sameText = new Set(reports.map((r) => r.quality.textDigest)).size === 1;
  const rows = QUALITY_ROWS.map(([name, show, value, order]) => {
    const values = value && order !== 0 && reports.length > 1 && sameText ? reports.map((r) => order * value(r)) : [];
    const best = values.length ? Math.max(...values) : NaN;
    const unique = values.filter((v) => v === best).length === 1;
    return [
      name,
      ...reports.map(
          (r, i) =>
              (unique && values[i] === best ?
                   el('span', {class: 'best'}, show(r), el('span', {class: 'visually-hidden'}, ' (best)')) :
                   show(r)))
    ];
  });
  return el(
      'div', {},
      sameText ?
          null :
          el('p', {class: 'notice'}, 'These were measured on different texts: their figures cannot be compared.'),
      table('Quality', ['Figure', ...reports.map((r) => title(r.artifact))], rows));
}

function quantilePlot(reports) {
  const quantiles = [['50 %', 'klP50'], ['90 %', 'klP90'], ['99 %', 'klP99'], ['99.9 %', 'klP999'], ['max', 'klMax']];
  return {
    title: 'KL of single tokens, by quantile',
    x: {label: 'Share of tokens at or below', labels: quantiles.map(([words], i) => [i, words])},
    y: {label: 'KL, nats', log: true},
    series: reports.map(
        (r) => ({
          name: title(r.artifact),
          points: quantiles.map(
              ([words, key], i) =>
                  ({x: i, y: r.quality[key], note: `${title(r.artifact)}, ${words}: ${number(r.quality[key])}`}))
        })),
    columns: ['Artifact', ...quantiles.map(([words]) => words)],
    rows: reports.map((r) => [title(r.artifact), ...quantiles.map(([, key]) => number(r.quality[key]))]),
  };
}

function detailsOf(report, place) {
  const {artifact} = report;
  const onError = (error) => replace(place, errorBox(error));
  const files = artifact.files.map((file) => el('li', {}, downloadLink(artifact.name, file, onError)));
  return el(
      'div', {class: 'column'}, el('h3', {}, title(artifact)),
      el('p', {class: 'sub'}, 'From ', copyable(artifact.checkpoint, shortId(artifact.checkpoint)),
         artifact.job ?
             [
               ' by ',
               el('a', {href: `#/jobs/${encodeURIComponent(idOf(artifact.job))}`}, `job ${shortId(artifact.job)}`)
             ] :
             null),
      el('h4', {}, 'Files'), el('ul', {class: 'files'}, files));
}

async function showReports(host, reports, signal) {
  const place = el('div');
  const quantiles = new Plot(signal);
  const layers = new Plot(signal);
  const single = reports.length === 1;
  const usable = usableMetrics(reports.flatMap((r) => r.tensors));
  const metric = select(usable.map((m) => [m, METRICS[m]]), usable[0] ?? '');
  const draw = () => {
    if (!metric.value) return;
    layers.set(
        single ? tensorBars(reports[0].tensors, metric.value) :
                 layerLines(reports.map((r) => ({name: title(r.artifact), tensors: r.tensors})), metric.value));
  };
  metric.addEventListener('change', draw);
  replace(
      host, el('h2', {}, single ? 'Report' : 'Reports side by side'), place, qualityTable(reports), quantiles.node,
      usable.length > 1 ? el('div', {class: 'narrow'}, field('Show', metric)) : null, layers.node,
      el('div', {class: 'columns'}, reports.map((r) => detailsOf(r, place))));
  quantiles.set(quantilePlot(reports));
  draw();
}

export async function showArtifacts(root, {signal, query}) {
  const shown = new Set((query.get('show') ?? '').split(',').filter(Boolean).slice(0, MAX_SHOWN));
  const reports = new Map();
  const list = el('ul', {class: 'cards', 'aria-label': 'Artifacts'});
  const [trouble, nothing, problem] = [0, 1, 2].map(() => el('div'));
  const host = el('section', {'aria-label': 'Reports', 'aria-live': 'off'});
  const hint = el('p', {class: 'hint'});
  replace(root, trouble, hint, list, nothing, problem, host);
  let drawn = new AbortController();

  async function reportOf(id) {
    if (!reports.has(id)) {
      const name = `artifacts/${id}`;
      const [artifact, report] =
          await Promise.all([get(resource(name), {}, signal), get(resource(name, '/report'), {}, signal)]);
      reports.set(id, {artifact, quality: report.quality, tensors: report.tensors ?? []});
    }
    return reports.get(id);
  }

  async function drawReports() {
    drawn.abort();
    drawn = new AbortController();
    const mine = drawn;
    replace(problem);
    const ids = [...shown];
    if (ids.length === 0) {
      replace(host);
      return;
    }
    try {
      const all = await Promise.all(ids.map(reportOf));
      if (!mine.signal.aborted) await showReports(host, all, mine.signal);
    } catch (error) {
      if (error.name !== 'AbortError' && !mine.signal.aborted)
        replace(problem, errorBox(error, {title: 'A report cannot be read', retry: drawReports}));
    }
  }
  signal.addEventListener('abort', () => drawn.abort(), {once: true});

  const toggle = (artifact, on) => {
    const id = idOf(artifact.name);
    if (on && shown.size >= MAX_SHOWN)
      announce(`At most ${MAX_SHOWN} side by side`);
    else if (on)
      shown.add(id);
    else
      shown.delete(id);
    // The address can be kept and sent to others; the view is not left for it.
    history.replaceState(null, '', shown.size ? `#/artifacts?show=${[...shown].join(',')}` : '#/artifacts');
    cards.set(artifacts);
    drawReports();
  };
  let artifacts = [];
  const cards = new KeyedList(list, (a) => a.name, (a) => card(a, shown, toggle, () => refresh()));
  async function refresh() {
    try {
      artifacts = await listAll('/v1/artifacts', 'artifacts', {signal});
      cards.set(artifacts);
      setText(
          hint,
          artifacts.length > 1 ? 'Tick artifacts to see their reports, several to see them side by side.' :
                                 'Tick an artifact to see its report.');
      hint.hidden = artifacts.length === 0;
      replace(
          nothing,
          artifacts.length ? null :
                             empty(
                                 'No artifacts yet. A quantize job makes them.',
                                 el('a', {class: 'button primary', href: '#/jobs/new'}, 'New job')));
      replace(trouble);
    } catch (error) {
      if (error.name !== 'AbortError')
        replace(trouble, errorBox(error, {title: 'The artifacts cannot be read', retry: refresh}));
    }
  }
  const first = whileVisible(REFRESH_MS, signal, refresh);
  await drawReports();
  await first;
}
