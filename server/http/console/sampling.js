// The settings of a generation, as fields and as SamplingParams, and the stream of one answer.

import {stream} from './api.js';
import {el} from './dom.js';
import {enumWord, idOf, number, seconds} from './format.js';
import {field, numberInput} from './ui.js';

// [name of the parameter, words, attributes, hint]. What is left empty is left to the server.
const NUMBERS = [
  ['maxTokens', 'Most tokens', {min: 1, step: 1, placeholder: '256'}],
  ['temperature', 'Temperature', {min: 0, placeholder: '1'}, '0: always the likeliest token'],
  ['topP', 'Top p', {min: 0, max: 1, placeholder: '1'}],
  ['topK', 'Top k', {min: 0, step: 1, placeholder: 'off'}],
  ['minP', 'Min p', {min: 0, max: 1, placeholder: 'off'}],
  ['repetitionPenalty', 'Repetition penalty', {min: 0, placeholder: '1'}],
  ['presencePenalty', 'Presence penalty', {min: -2, max: 2, placeholder: '0'}],
  ['frequencyPenalty', 'Frequency penalty', {min: -2, max: 2, placeholder: '0'}],
];

export function samplingFields(defaults = {}) {
  const inputs = NUMBERS.map(([name, words, attributes, hint]) => {
    const input = numberInput({...attributes, value: defaults[name] === undefined ? '' : String(defaults[name])});
    return {name, input, node: field(words, input, hint)};
  });
  const seed = el('input', {type: 'text', inputmode: 'numeric', pattern: '[0-9]*', placeholder: 'a new one each time'});
  const stop = el('textarea', {rows: 2, spellcheck: 'false'});
  const node =
      el('details', {class: 'sampling'}, el('summary', {}, 'Sampling'),
         el('div', {class: 'grid'}, inputs.map((i) => i.node), field('Seed', seed)),
         field('Stop at', stop, 'One text a line'));
  return {
    node,
    value() {
      const params = {};
      for (const {name, input} of inputs) {
        if (input.value !== '') params[name] = Number(input.value);
      }
      if (seed.value.trim() !== '') params.seed = seed.value.trim();
      const stops = stop.value.split('\n').filter((line) => line !== '');
      if (stops.length > 0) params.stop = stops;
      return params;
    },
  };
}

// Asks a model and gives its answer to `onText` as it comes. `messages` for a chat, `prompt` for plain text. Resolves
// with the last message of the stream: usage, finishReason, model.
export async function ask({model, messages, prompt, params}, onText, signal) {
  const chat = messages !== undefined;
  let last = {};
  for await (const part of stream('POST', chat ? '/v1/inference:chat' : '/v1/inference:generate', {
    body: chat ? {model, messages, params} : {model, prompt, params},
    signal,
  })) {
    if (part.text) onText(part.text);
    last = part;
  }
  return last;
}

// "24 tokens in 1.2 s (20 a second), first after 80 ms, seed 17, stopped".
export function usageWords(last) {
  const usage = last.usage;
  if (!usage) return '';
  const words = [`${usage.completionTokens} tokens`];
  const reading = usage.timeToFirstTokenSeconds;
  const writing = usage.totalSeconds - reading;
  if (usage.completionTokens > 1 && writing > 0)
    words.push(`${number((usage.completionTokens - 1) / writing)} a second`);
  if (reading > 0) words.push(`first after ${reading < 1 ? `${Math.round(1000 * reading)} ms` : seconds(reading)}`);
  words.push(`${usage.promptTokens} of prompt${
      usage.cachedPromptTokens ? `, ${usage.cachedPromptTokens} from the cache` : ''}`);
  if (Number(usage.seed)) words.push(`seed ${usage.seed}`);
  const finish = enumWord(last.finishReason, 'FINISH_REASON_');
  if (finish === 'length') words.push('cut off at the limit');
  if (last.model) words.push(idOf(last.model));
  return words.join(' · ');
}
