// The tensors of a job as they come: how many, and the plot of one of their figures.

import {el, replace, setText} from './dom.js';
import {number} from './format.js';
import {Plot} from './plot.js';
import {METRICS, tensorBars, usableMetrics} from './tensors.js';
import {field, select} from './ui.js';

// The bits of a tensor's codes, in half bits: without its 16-bit norms, and channel scales add less than half a bit.
function rateOf(tensor) {
  if (tensor.type) return tensor.bpw;  // floats as they are
  return Math.floor(2 * (tensor.bpw - 16 / Number(tensor.cols)) + 1e-6) / 2;
}

// Puts options into a select, keeping the chosen one; `fallback` is chosen where it is gone.
function setOptions(control, options, fallback) {
  const shown = [...control.options].map((option) => option.value);
  if (options.map(([value]) => value).join() === shown.join()) return;
  const before = control.value;
  replace(control, options.map(([value, words]) => el('option', {value}, words)));
  control.value = options.some(([value]) => value === before) ? before : fallback;
}

export class JobTensors {
  constructor(signal) {
    // A job with several candidates has a tensor at several rates.
    this.tensors = new Map();
    this.chosenRate = false;
    this.words = el('p', {class: 'sub'}, 'None yet.');
    this.rate = select([], '');
    this.metric = select([], '');
    this.rateField = field('Rate', this.rate);
    this.metricField = field('Show', this.metric);
    this.plot = new Plot(signal);
    this.node =
        el('section', {'aria-label': 'Tensors'}, el('h2', {}, 'Tensors'), this.words,
           el('div', {class: 'pair narrow'}, this.metricField, this.rateField), this.plot.node);
    this.rateField.hidden = true;
    this.metricField.hidden = true;
    this.metric.addEventListener('change', () => this.draw());
    this.rate.addEventListener('change', () => {
      this.chosenRate = true;
      this.draw();
    });
  }

  clear() {
    this.tensors.clear();
  }

  add(tensors) {
    for (const tensor of tensors) this.tensors.set(`${tensor.name} ${rateOf(tensor)}`, tensor);
    this.draw(tensors.length > 0 ? String(rateOf(tensors[tensors.length - 1])) : '');
  }

  // Until the reader chooses a rate, the one that is being made is shown.
  draw(newest = '') {
    const all = [...this.tensors.values()];
    // Tensors that are there once are one artifact, whatever their rates.
    const several = new Set(all.map((tensor) => tensor.name)).size < all.length;
    const rates = several ? [...new Set(all.map(rateOf))].sort((a, b) => a - b).map(String) : [];
    setOptions(this.rate, rates.map((rate) => [rate, `${number(rate)} bits`]), newest || rates[0] || '');
    if (!this.chosenRate && several && newest) this.rate.value = newest;
    this.rateField.hidden = !several;
    const shown = several ? all.filter((tensor) => String(rateOf(tensor)) === this.rate.value) : all;
    const usable = usableMetrics(shown);
    setOptions(this.metric, usable.map((metric) => [metric, METRICS[metric]]), usable[0] ?? '');
    this.metricField.hidden = usable.length < 2;
    setText(this.words, all.length > 0 ? `${all.length} quantized` : 'None yet.');
    if (this.metric.value) this.plot.set(tensorBars(shown, this.metric.value));
  }
}
