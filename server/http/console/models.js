// Checkpoints with uploads, served models and aliases.

import {call, listAll, post, resource} from './api.js';
import {el, KeyedList, replace, setText} from './dom.js';
import {bytes, count, enumWord, idOf, parameters, percent, shortId, time} from './format.js';
import {
  aliasDialog,
  deleteAlias,
  isReady,
  listAliases,
  listServed,
  loadDialog,
  sourceWords,
  STATE_KINDS,
  unloadDialog
} from './served.js';
import {
  badge,
  confirmDialog,
  copyable,
  empty,
  errorBox,
  field,
  formDialog,
  openDialog,
  select,
  table,
  toast,
  whileVisible,
  withBusy
} from './ui.js';
import {uploadPanel} from './upload.js';

const REFRESH_MS = 10000;

function button(words, label, place, work, kind = '') {
  return el(
      'button', {
        type: 'button',
        class: kind,
        'aria-label': label,
        onclick: (event) => withBusy(event.currentTarget, place, work)
      },
      words);
}

function filesDialog(what) {
  return openDialog(
      `Files of ${what.displayName || shortId(what.name)}`,
      () => table(
          'Files', ['Name', 'Size', 'SHA-256'],
          what.files.map(
              (file) => [file.name, bytes(file.sizeBytes), copyable(file.sha256, file.sha256.slice(0, 12))])));
}

function checkpointCard(first, refresh) {
  const place = el('div');
  const label = first.displayName || shortId(first.name);
  return {
    node:
        el('li', {class: 'card'}, el('div', {class: 'card-head'}, el('h3', {}, label), badge(first.architecture)),
           el('p', {class: 'sub'},
              `${parameters(first.parameters)} parameters · ${bytes(first.sizeBytes)} · ${time(first.createTime)} · `,
              copyable(first.name, shortId(first.name))),
           place,
           el('div', {class: 'actions'},
              el('a', {
                class: 'button primary',
                'aria-label': `Quantize ${label}`,
                href: `#/jobs/new?checkpoint=${encodeURIComponent(first.name)}`
              },
                 'Quantize'),
              button(
                  'Load', `Load ${label}`, place,
                  async () => {
                    if (await loadDialog(first.name, label)) refresh();
                  }),
              button('Files', `Files of ${label}`, place, () => filesDialog(first)),
              button(
                  'Delete', `Delete ${label}`, place,
                  async () => {
                    if (!await confirmDialog(
                            'Delete this checkpoint?',
                            `${label} (${bytes(first.sizeBytes)}) is deleted. Artifacts made from it stay.`,
                            'Delete the checkpoint'))
                      return;
                    await call('DELETE', resource(first.name));
                    refresh();
                  }))),
  };
}

function servedCard(first, refresh, signal) {
  const place = el('div');
  const id = idOf(first.name);
  const state = el('span');
  const source = el('span', {}, shortId(first.source));
  const numbers = el('span');
  const error = el('p', {class: 'error-line'});
  const actions = el('div', {class: 'actions'});
  let latest = first;
  let shown = '';
  sourceWords(first.source, signal).then((words) => setText(source, words), () => {});
  return {
    node:
        el('li', {class: 'card'}, el('div', {class: 'card-head'}, el('h3', {}, id), state),
           el('p', {class: 'sub'}, first.source.startsWith('artifacts/') ? 'artifact ' : 'checkpoint ', source, ' · ',
              numbers),
           error, place, actions),
    update(model) {
      latest = model;
      setText(
          numbers,
          `${bytes(model.memoryBytes)} · ${count(model.contextTokens)} tokens of context · ${model.running} running, ${
              model.waiting} waiting${
              model.replicas > 1 ? ` · ${model.readyReplicas} of ${model.replicas} replicas ready` :
                                   ''}${model.chat ? '' : ' · no chat template'}`);
      setText(error, model.error ?? '');
      error.hidden = !model.error;
      if (shown === model.state) return;
      shown = model.state;
      replace(state, badge(enumWord(model.state, 'SERVED_MODEL_STATE_'), STATE_KINDS[model.state] ?? ''));
      replace(
          actions,
          isReady(model) ?
              el('a',
                 {class: 'button', 'aria-label': `Chat with ${id}`, href: `#/chat?model=${encodeURIComponent(id)}`},
                 'Chat') :
              null,
          button('Unload', `Unload ${id}`, place, async () => {
            if (await unloadDialog(latest)) refresh();
          }));
    },
  };
}

function aliasCard(first, models, refresh) {
  const place = el('div');
  const id = idOf(first.name);
  const targets = el('p', {class: 'sub'});
  let latest = first;
  return {
    node:
        el('li', {class: 'card'}, el('div', {class: 'card-head'}, el('h3', {}, id)), targets, place,
           el('div', {class: 'actions'},
              button(
                  'Weights', `Weights of ${id}`, place,
                  async () => {
                    if (await aliasDialog(latest, models())) refresh();
                  }),
              button(
                  'Delete', `Delete ${id}`, place,
                  async () => {
                    if (await deleteAlias(latest)) refresh();
                  }))),
    update(alias) {
      latest = alias;
      const sum = alias.targets.reduce((total, target) => total + target.weight, 0);
      setText(
          targets,
          alias.targets.map((t) => `${idOf(t.model)} ${percent(sum > 0 ? t.weight / sum : 0, 0)}`).join(' · '));
    },
  };
}

function importDialog() {
  const kind =
      select([['UPLOAD_KIND_CHECKPOINT', 'Checkpoint'], ['UPLOAD_KIND_TEXT', 'Text']], 'UPLOAD_KIND_CHECKPOINT');
  const from = el('input', {
    type: 'text',
    required: true,
    spellcheck: 'false',
    placeholder: 'folder, hf://organisation/model or s3://bucket/prefix'
  });
  const name = el('input', {type: 'text', maxlength: 200});
  return formDialog(
      'Import',
      [
        field('What', kind),
        field('From', from, 'A path below the server\'s import root, a model hub or an object store'),
        field('Name', name, 'For people; may stay empty'),
      ],
      'Import', async () => {
        const where = from.value.trim();
        const place = /^(hf|s3):\/\//.test(where) ? {source: where} : {path: where};
        const result =
            await post('/v1/checkpoints:import', {kind: kind.value, ...place, displayName: name.value.trim()});
        toast('It is there');
        return result;
      });
}

export async function showModels(root, {signal}) {
  const served = el('ul', {class: 'cards', 'aria-label': 'Served models'});
  const aliases = el('ul', {class: 'cards', 'aria-label': 'Aliases'});
  const checkpoints = el('ul', {class: 'cards', 'aria-label': 'Checkpoints'});
  const [noServed, noAliases, noCheckpoints, trouble, place] = [0, 1, 2, 3, 4].map(() => el('div'));
  let models = [];
  const lists = {
    served: new KeyedList(served, (m) => m.name, (m) => servedCard(m, () => refresh(), signal)),
    aliases: new KeyedList(aliases, (a) => a.name, (a) => aliasCard(a, () => models, () => refresh())),
    checkpoints: new KeyedList(checkpoints, (c) => c.name, (c) => checkpointCard(c, () => refresh())),
  };

  // One part that cannot be read (a server without the role, a key without the scope) does not hide the others.
  async function refresh() {
    const parts = [
      [
        'Served models', listServed(signal),
        (found) => {
          models = found;
          lists.served.set(found);
          replace(
              noServed, found.length ? null : empty('No model is loaded. Load a checkpoint below, or an artifact.'));
        }
      ],
      [
        'Aliases', listAliases(signal),
        (found) => {
          lists.aliases.set(found);
          replace(
              noAliases,
              found.length ? null : empty('No aliases. An alias spreads its requests over served models by weight.'));
        }
      ],
      [
        'Checkpoints', listAll('/v1/checkpoints', 'checkpoints', {signal}),
        (found) => {
          lists.checkpoints.set(found);
          replace(noCheckpoints, found.length ? null : empty('No checkpoints yet.'));
        }
      ],
    ];
    const results = await Promise.allSettled(parts.map(([, answer]) => answer));
    if (signal.aborted) return;
    const errors = [];
    results.forEach((result, i) => {
      if (result.status === 'fulfilled')
        parts[i][2](result.value);
      else
        errors.push(errorBox(result.reason, {title: `${parts[i][0]} cannot be read`, retry: refresh}));
    });
    replace(trouble, errors);
  }

  replace(
      root, trouble,
      el('section', {'aria-labelledby': 'served-title'}, el('h2', {id: 'served-title'}, 'Served models'), served,
         noServed),
      el('section', {'aria-labelledby': 'alias-title'},
         el('div', {class: 'bar'}, el('h2', {id: 'alias-title'}, 'Aliases'),
            button(
                'New alias', 'New alias', place,
                async () => {
                  if (await aliasDialog(null, models)) refresh();
                })),
         place, aliases, noAliases),
      el('section', {'aria-labelledby': 'checkpoint-title'},
         el('div', {class: 'bar'}, el('h2', {id: 'checkpoint-title'}, 'Checkpoints'),
            button(
                'Import', 'Import a checkpoint or a text', place,
                async () => {
                  if (await importDialog()) refresh();
                })),
         checkpoints, noCheckpoints),
      el('section', {'aria-labelledby': 'upload-title'}, el('h2', {id: 'upload-title'}, 'Upload'),
         el('div', {class: 'columns'}, uploadPanel({
              kind: 'UPLOAD_KIND_CHECKPOINT',
              title: 'A checkpoint',
              signal,
              onDone: refresh,
              hint: 'A Hugging Face folder with safetensors, or a GGUF file. Only what the server lacks is sent.'
            }),
            uploadPanel({
              kind: 'UPLOAD_KIND_TEXT',
              title: 'A text',
              signal,
              onDone: refresh,
              hint: 'One UTF-8 file, to calibrate or evaluate on: prose, code, or JSON lines of conversations.'
            }))));
  await whileVisible(REFRESH_MS, signal, refresh);
}
