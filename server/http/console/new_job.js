// The form that starts a quantize job.

import {listAll, post} from './api.js';
import {el, replace} from './dom.js';
import {bytes, idOf, number, seconds, shortId} from './format.js';
import {knownTexts} from './texts.js';
import {announce, checkbox, definitions, empty, field, numberInput, select, withBusy} from './ui.js';

const CODECS = [
  ['CODEC_JOINT', 'Joint: a codebook of pairs'],
  ['CODEC_TRELLIS', 'Trellis: slower to make, better up to 5.5 bits'],
  ['CODEC_INT8', 'Baseline: 8-bit weights and activations'],
  ['CODEC_SCALAR', 'Baseline: scalar'],
  ['CODEC_POLAR', 'Baseline: polar'],
  ['CODEC_UNIFORM', 'Baseline: uniform'],
  ['CODEC_FULL', 'Full precision: nothing quantized'],
];
const RATES = [2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6];
// Codecs with one rate, which the server knows.
const FIXED_RATE = new Set(['CODEC_INT8', 'CODEC_FULL']);
const MAX_RATE = {
  CODEC_TRELLIS: 5.5
};

const GOALS = [
  ['rate', 'One rate'],
  ['ladder', 'Several rates, measured side by side'],
  ['size', 'The best of a size'],
  ['quality', 'The smallest of a quality'],
];

function textFields(words, defaults) {
  const source = select(
      [
        ['texts/built-in', 'Built-in text (English and code, 100 kB)'],
        ...knownTexts().map((text) => [text.name, text.displayName || shortId(text.name)]),
        ['', 'The model\'s own samples'],
        ['other', 'Another text, by name'],
      ],
      defaults.text);
  const name = el('input', {type: 'text', placeholder: 'texts/…', spellcheck: 'false'});
  const nameField = field('Name of the text', name);
  nameField.hidden = true;
  source.addEventListener('change', () => {
    nameField.hidden = source.value !== 'other';
  });
  const windows = numberInput({min: 0, step: 1, placeholder: defaults.windows});
  const tokens = numberInput({min: 0, step: 1, placeholder: '1024'});
  return {
    node:
        el('fieldset', {}, el('legend', {}, words), field('Text', source), nameField,
           el('div', {class: 'pair'}, field('Windows', windows), field('Tokens in each', tokens))),
    value: () => ({
      text: source.value === 'other' ? name.value.trim() : source.value,
      windows: Number(windows.value) || 0,
      windowTokens: Number(tokens.value) || 0,
    }),
  };
}

// The part of the form that says how many bits: its fields change with the goal and the codec.
function rateFields(codec) {
  const goals = GOALS.map(([value, words], i) => {
    const input = el('input', {type: 'radio', name: 'goal', value, checked: i === 0});
    return {input, node: el('label', {class: 'check'}, input, el('span', {}, words))};
  });
  const goal = () => goals.find(({input}) => input.checked).input.value;
  const rate = select(RATES.map((r) => [String(r), `${r} bits a weight`]), '5.5');
  const ladder = RATES.map((r) => ({rate: r, ...checkbox(String(r), [3.5, 4.5, 5.5].includes(r))}));
  const curveOnly = checkbox('Measure only, keep no artifact');
  const mixed = checkbox('Give each tensor its own rate where that measures better', true);
  const sizeBpw = numberInput({min: 0, placeholder: 'such as 4.2'});
  const sizeMib = numberInput({min: 0, placeholder: 'such as 120'});
  const kl = numberInput({min: 0, placeholder: 'such as 0.05'});
  const increase = numberInput({min: 0, placeholder: 'such as 2'});
  const parts = {
    rate: el('div', {}, field('Rate', rate)),
    ladder: el(
        'div', {},
        el('div', {class: 'checks', role: 'group', 'aria-label': 'Rates in bits a weight'}, ladder.map((l) => l.node)),
        curveOnly.node),
    size:
        el('div', {class: 'pair'}, field('At most, bits a weight', sizeBpw, 'Norms and scales counted'),
           field('At most, MiB', sizeMib, 'Of model.safetensors')),
    quality:
        el('div', {class: 'pair'}, field('Mean KL at most', kl, 'Nats a token, with 97.5 % confidence'),
           field('Perplexity increase at most, %', increase)),
  };
  const fixed = el('p', {class: 'hint'}, 'This codec has one rate.');
  const node = el(
      'fieldset', {}, el('legend', {}, 'Bits'), fixed,
      el('div', {class: 'checks column', role: 'radiogroup', 'aria-label': 'What to reach'}, goals.map((g) => g.node)),
      Object.values(parts), mixed.node);
  const sync = () => {
    const one = FIXED_RATE.has(codec.value);
    const limit = MAX_RATE[codec.value] ?? 6;
    fixed.hidden = !one;
    node.children[2].hidden = one;
    for (const [name, part] of Object.entries(parts)) part.hidden = one || name !== goal();
    mixed.node.hidden = one || !['size', 'quality'].includes(goal());
    for (const option of rate.options) option.disabled = Number(option.value) > limit;
    if (Number(rate.value) > limit) rate.value = String(limit);
    for (const l of ladder) l.input.disabled = l.rate > limit;
  };
  for (const {input} of goals) input.addEventListener('change', sync);
  codec.addEventListener('change', sync);
  sync();

  const target = (values) => ({...values, mixedRates: mixed.input.checked});
  const value = () => {
    if (FIXED_RATE.has(codec.value)) return {};
    switch (goal()) {
      case 'ladder':
        return {
          ladder: ladder.filter((l) => l.input.checked && !l.input.disabled).map((l) => l.rate),
          curveOnly: curveOnly.input.checked,
        };
      case 'size':
        return {
          target: target(
              {bpw: Number(sizeBpw.value) || 0, bytes: String(Math.floor((Number(sizeMib.value) || 0) * 1048576))})
        };
      case 'quality':
        return {target: target({kl: Number(kl.value) || 0, perplexityIncrease: (Number(increase.value) || 0) / 100})};
      default:
        return {bpw: Number(rate.value)};
    }
  };
  // What the server could not know was meant.
  const missing = () => {
    if (FIXED_RATE.has(codec.value)) return '';
    if (goal() === 'ladder' && value().ladder.length === 0) return 'Choose at least one rate.';
    if (goal() === 'size' && !(Number(sizeBpw.value) > 0 || Number(sizeMib.value) > 0))
      return 'Give a size: bits a weight, MiB, or both.';
    if (goal() === 'quality' && !(Number(kl.value) > 0 || Number(increase.value) > 0))
      return 'Give a quality: a mean KL or an increase of the perplexity.';
    return '';
  };
  return {node, value, missing};
}

function estimateOf(job) {
  const e = job.estimate ?? {};
  return el('div', {class: 'notice', role: 'status'}, definitions([
              ['Artifact', bytes(e.artifactBytes)],
              ['bpw', number(e.bpw)],
              ['Tensors', e.tensors],
              ['Memory', bytes(e.peakMemoryBytes)],
              ['Disk', bytes(e.diskBytes)],
              ['Time', e.seconds > 0 ? seconds(e.seconds) : 'not known yet'],
            ]));
}

export async function showNewJob(root, {signal, query}) {
  const checkpoints = await listAll('/v1/checkpoints', 'checkpoints', {signal});
  if (checkpoints.length === 0) {
    replace(
        root, empty('There is no checkpoint yet.', el('a', {class: 'button primary', href: '#/models'}, 'Put one in')));
    return;
  }
  const checkpoint = select(
      checkpoints.map(
          (c) => [c.name, `${c.displayName || shortId(c.name)} (${c.architecture}, ${bytes(c.sizeBytes)})`]),
      query.get('checkpoint') ?? checkpoints[0].name);
  if (checkpoint.selectedIndex < 0) checkpoint.selectedIndex = 0;
  const name = el('input', {type: 'text', maxlength: 200});
  const codec = select(CODECS, 'CODEC_JOINT');
  const rates = rateFields(codec);
  const feedback = checkbox('Error feedback: columns make up for the rounding of those before them');
  const scale = checkbox('Channel scales from the inputs', true);
  const embeddings = select([['16', 'as they are'], ['8', '8 bits']], '16');
  const rotation = select(
      [
        ['ROTATION_UNSPECIFIED', 'Default of the codec'], ['ROTATION_FULL', 'Full'], ['ROTATION_BLOCK', 'Blocks'],
        ['ROTATION_NONE', 'None']
      ],
      'ROTATION_UNSPECIFIED');
  const calibration = textFields('Calibration', {text: 'texts/built-in', windows: '8, with feedback 16'});
  const evaluation = textFields('Evaluation', {text: 'texts/built-in', windows: '8'});
  const gate = numberInput({min: 0, placeholder: 'no limit'});
  const loadAs = el('input', {type: 'text', maxlength: 63, spellcheck: 'false', placeholder: 'do not load'});
  const priority = numberInput({step: 1, value: '0'});
  const place = el('div');
  const start = el('button', {type: 'submit', class: 'primary'}, 'Start');
  const estimate = el('button', {type: 'button'}, 'Estimate');

  const full = () => codec.value === 'CODEC_FULL';
  const syncOptions = () => {
    for (const option of [feedback, scale]) option.input.disabled = full();
    rotation.disabled = full();
  };
  codec.addEventListener('change', syncOptions);

  const request = (validateOnly) => {
    const missing = rates.missing();
    if (missing) throw new Error(missing);
    const spec = {
      codec: codec.value,
      ...rates.value(),
      rotation: full() ? 'ROTATION_UNSPECIFIED' : rotation.value,
      errorFeedback: !full() && feedback.input.checked,
      embeddingBits: Number(embeddings.value),
      calibration: calibration.value(),
      evaluation: evaluation.value(),
      maxKl: Number(gate.value) || 0,
    };
    if (!full()) spec.channelScale = scale.input.checked;
    return {
      checkpoint: checkpoint.value,
      spec,
      displayName: name.value.trim(),
      priority: Number(priority.value) || 0,
      loadAs: loadAs.value.trim(),
      validateOnly,
    };
  };
  estimate.addEventListener('click', () => withBusy(estimate, place, async () => {
                                       replace(
                                           place, estimateOf(await post('/v1/jobs:quantize', request(true), signal)));
                                     }));
  const form =
      el('form', {class: 'form'}, field('Checkpoint', checkpoint), field('Name', name, 'For people; may stay empty'),
         field('Codec', codec), rates.node, calibration.node, evaluation.node,
         el('details', {}, el('summary', {}, 'More settings'),
            el('div', {class: 'checks column'}, feedback.node, scale.node),
            el('div', {class: 'pair'}, field('Embeddings', embeddings), field('Rotation', rotation)),
            el('div', {class: 'pair'}, field('Refuse the artifact above a mean KL of', gate),
               field('Priority', priority, 'Higher goes first')),
            field('When done, serve it as', loadAs)),
         place, el('div', {class: 'actions'}, start, estimate));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    withBusy(start, place, async () => {
      const job = await post('/v1/jobs:quantize', request(false));
      announce('The job is created');
      location.hash = `#/jobs/${encodeURIComponent(idOf(job.name))}`;
    });
  });
  replace(root, el('p', {}, el('a', {href: '#/jobs'}, '← All jobs')), form);
}
