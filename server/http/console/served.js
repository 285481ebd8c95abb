// Served models and aliases: what can be asked for text, and the dialogs that load, unload and weigh it.

import {call, get, listAll, post, resource} from './api.js';
import {el, replace} from './dom.js';
import {enumWord, idOf, shortId} from './format.js';
import {confirmDialog, field, formDialog, numberInput, toast} from './ui.js';

export const STATE_KINDS = {
  SERVED_MODEL_STATE_LOADING: 'busy',
  SERVED_MODEL_STATE_READY: 'good',
  SERVED_MODEL_STATE_DRAINING: 'busy',
  SERVED_MODEL_STATE_UNLOADED: 'muted',
  SERVED_MODEL_STATE_FAILED: 'bad',
};
export const isReady = (model) => model.state === 'SERVED_MODEL_STATE_READY';

export const listServed = (signal) => listAll('/v1/servedModels', 'models', {signal});
export const listAliases = (signal) => listAll('/v1/aliases', 'aliases', {signal});

const NAME_HINT = '1 to 63 of a-z, 0-9, "-", ".", "_"';

// Resolves with the model once it is READY, undefined if the reader left.
export function loadDialog(source, label) {
  const name = el('input', {
    type: 'text',
    required: true,
    maxlength: 63,
    pattern: '[a-z0-9._\\-]+',
    spellcheck: 'false',
    autocomplete: 'off'
  });
  const context = numberInput({min: 0, step: 1, placeholder: 'the model\'s own, at most 8192'});
  return formDialog(
      `Load ${label}`,
      [
        field('Name', name, NAME_HINT),
        field('Context, tokens', context, 'Less context takes less memory'),
      ],
      'Load', async () => {
        const model = await post(
            '/v1/servedModels', {name: name.value.trim(), source, contextTokens: Number(context.value) || 0});
        toast(`${idOf(model.name)} is ${enumWord(model.state, 'SERVED_MODEL_STATE_')}`);
        return model;
      });
}

export function unloadDialog(model) {
  const drain = numberInput({min: 0, value: '30'});
  return formDialog(
      `Unload ${idOf(model.name)}`,
      [
        el('p', {},
           `New requests are refused at once${model.running > 0 ? `; ${model.running} that run may finish` : ''}.`),
        field('Seconds for running requests', drain),
      ],
      'Unload', () => post(resource(model.name, ':unload'), {drainSeconds: Number(drain.value) || 0}));
}

// A new alias, or other weights for one.
export async function aliasDialog(alias, models) {
  const name =
      el('input',
         {type: 'text', required: true, maxlength: 63, spellcheck: 'false', value: alias ? idOf(alias.name) : ''});
  if (alias) name.readOnly = true;
  const weights = new Map((alias?.targets ?? []).map((target) => [idOf(target.model), target.weight]));
  const rows = models.map((model) => {
    const id = idOf(model.name);
    const share = el('span', {class: 'sub'});
    const input = numberInput({min: 0, max: 1000000, step: 1, value: String(weights.get(id) ?? 0)});
    return {id, input, share, was: weights.has(id), node: el('div', {class: 'weight'}, field(id, input), share)};
  });
  const weightOf = (row) => Math.max(0, Number(row.input.value) || 0);
  const showShares = () => {
    const sum = rows.reduce((total, row) => total + weightOf(row), 0);
    for (const row of rows) replace(row.share, sum > 0 ? `${(100 * weightOf(row) / sum).toFixed(1)} %` : '–');
  };
  for (const row of rows) row.input.addEventListener('input', showShares);
  showShares();
  return formDialog(
      alias ? `Weights of ${idOf(alias.name)}` : 'New alias',
      [
        field('Name', name, NAME_HINT),
        el('fieldset', {}, el('legend', {}, 'Weights of served models'), rows.map((row) => row.node)),
      ],
      'Save',
      () => call('PUT', resource(`aliases/${name.value.trim()}`), {
        body: {
          targets:
              rows.filter((row) => weightOf(row) > 0 || row.was).map((row) => ({model: row.id, weight: weightOf(row)})),
          etag: alias?.etag ?? '',
        },
      }));
}

export async function deleteAlias(alias) {
  if (!await confirmDialog(
          'Delete this alias?', `Requests for ${idOf(alias.name)} are refused from then on. The models stay served.`,
          'Delete the alias'))
    return false;
  await call('DELETE', resource(alias.name), {query: {etag: alias.etag}});
  return true;
}

// [{value, words, model}] of everything that can be asked now; aliases come after models.
export async function askable(signal) {
  const [models, aliases] = await Promise.all([listServed(signal), listAliases(signal)]);
  const ready = models.filter(isReady);
  return [
    ...ready.map((model) => ({value: idOf(model.name), words: idOf(model.name), model})),
    ...aliases.map(
        (alias) => ({
          value: idOf(alias.name),
          words: `${idOf(alias.name)} (alias)`,
          alias,
          model: ready.find((model) => alias.targets.some((target) => idOf(target.model) === idOf(model.name)))
        })),
  ];
}

// What a served model was made from: {artifact} or {checkpoint}, with names where there are any.
export async function sourceWords(source, signal) {
  try {
    const found = await get(resource(source), {}, signal);
    return found.displayName || shortId(source);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    return shortId(source);
  }
}
