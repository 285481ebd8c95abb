// API keys, and the log of what was done with them.

import {call, get, listAll, post, resource, setApiKey} from './api.js';
import {el, replace} from './dom.js';
import {bytes, count, enumWord, idOf, time} from './format.js';
import {
  badge,
  checkbox,
  confirmDialog,
  copyText,
  definitions,
  empty,
  errorBox,
  field,
  formDialog,
  numberInput,
  openDialog,
  select,
  table,
  toast,
  withBusy
} from './ui.js';

const SCOPES = [
  ['SCOPE_READ', 'Read: get, list, watch, download'],
  ['SCOPE_UPLOAD', 'Upload: put in checkpoints and texts'],
  ['SCOPE_QUANTIZE', 'Quantize: start and end jobs'],
  ['SCOPE_INFER', 'Infer: generate, chat, score'],
  ['SCOPE_ADMIN', 'Admin: everything, keys included'],
];
const STATES = {
  KEY_STATE_VALID: 'good',
  KEY_STATE_EXPIRED: 'muted',
  KEY_STATE_REVOKED: 'bad'
};
const LIFETIMES =
    [['0', 'for ever'], ['86400', 'one day'], ['2592000', '30 days'], ['7776000', '90 days'], ['31536000', 'one year']];
const AUDIT_PAGE = 50;

// The secret is shown once: the server keeps only its digest.
function showSecret(made) {
  return openDialog(
      'The new key',
      (close) =>
          el('div', {}, el('p', {}, 'Copy it now. It is not kept and cannot be shown again.'),
             el('textarea', {readonly: true, rows: 2, 'aria-label': 'The key', value: made.secret}),
             el('div', {class: 'actions'},
                el('button', {type: 'button', class: 'primary', onclick: () => copyText(made.secret)}, 'Copy'),
                el('button', {
                  type: 'button',
                  onclick: () => {
                    setApiKey(made.secret);
                    document.dispatchEvent(new CustomEvent('qamserve:key'));
                    toast('This tab uses the new key');
                    close(true);
                  }
                },
                   'Use it in this tab'),
                el('button', {type: 'button', onclick: () => close(true)}, 'Done'))));
}

async function newKeyDialog(first) {
  const name = el('input', {type: 'text', required: true, maxlength: 200});
  const scopes = SCOPES.map(
      ([value, words]) => ({value, ...checkbox(words, first ? value === 'SCOPE_ADMIN' : value === 'SCOPE_READ')}));
  const lifetime = select(LIFETIMES, '0');
  const limit = () => numberInput({min: 0, step: 1, placeholder: 'no limit'});
  const [requests, tokens, concurrent, upload] = [limit(), limit(), limit(), limit()];
  const made = await formDialog(
      'New key',
      [
        first ? el('p', {class: 'notice'},
                   'This is the first key: it must have the scope admin. From then on every call needs a key, ' +
                       'this page too.') :
                null,
        field('Name', name, 'Who or what uses it'),
        el('fieldset', {}, el('legend', {}, 'It may'), el('div', {class: 'checks column'}, scopes.map((s) => s.node))),
        field('Valid', lifetime),
        el('details', {}, el('summary', {}, 'Limits'),
           el('div', {class: 'grid'}, field('Requests a minute', requests), field('Tokens a minute', tokens),
              field('Requests at once', concurrent), field('Upload a day, MiB', upload))),
      ],
      'Make', () => post('/v1/keys', {
                displayName: name.value.trim(),
                scopes: scopes.filter((s) => s.input.checked).map((s) => s.value),
                ttlSeconds: lifetime.value,
                limits: {
                  requestsPerMinute: Number(requests.value) || 0,
                  tokensPerMinute: Number(tokens.value) || 0,
                  concurrentRequests: Number(concurrent.value) || 0,
                  uploadBytesPerDay: String(Math.floor((Number(upload.value) || 0) * 1048576)),
                },
              }));
  if (made) await showSecret(made);
  return made;
}

async function rotateDialog(key) {
  const grace = select(
      [['0', 'ends at once'], ['3600', 'is valid for one hour more'], ['86400', 'for a day'], ['604800', 'for a week']],
      '86400');
  const made = await formDialog(
      `Rotate ${key.displayName}`,
      [
        el('p', {}, 'The key gets a new secret.'),
        field('The old one', grace),
      ],
      'Rotate', () => post(resource(key.name, ':rotate'), {graceSeconds: grace.value}));
  if (made) await showSecret(made);
  return made;
}

function limitWords(limits = {}) {
  const words = [];
  if (limits.requestsPerMinute) words.push(`${count(limits.requestsPerMinute)} requests a minute`);
  if (limits.tokensPerMinute) words.push(`${count(limits.tokensPerMinute)} tokens a minute`);
  if (limits.concurrentRequests) words.push(`${limits.concurrentRequests} at once`);
  if (Number(limits.uploadBytesPerDay)) words.push(`${bytes(limits.uploadBytesPerDay)} of uploads a day`);
  return words.join(', ') || 'no limits';
}

function keyCard(key, mine, refresh) {
  const place = el('div');
  const button = (words, work) =>
      el('button', {
        type: 'button',
        'aria-label': `${words} ${key.displayName}`,
        onclick: (event) => withBusy(
            event.currentTarget, place,
            async () => {
              if (await work()) refresh();
            })
      },
         words);
  const valid = key.state === 'KEY_STATE_VALID';
  return el(
      'li', {class: 'card'},
      el('div', {class: 'card-head'}, el('h3', {}, key.displayName),
         badge(enumWord(key.state, 'KEY_STATE_'), STATES[key.state] ?? ''), mine ? badge('this tab') : null),
      definitions([
        ['Begins with', el('code', {}, `${key.hint}…`)],
        ['May', key.scopes.map((s) => enumWord(s, 'SCOPE_')).join(', ')],
        ['Limits', limitWords(key.limits)],
        ['Made', time(key.createTime)],
        ['Valid until', key.expireTime ? time(key.expireTime) : 'it is revoked'],
        ['Last used', key.lastUsedTime ? time(key.lastUsedTime) : 'never'],
        ['Old secret valid until', key.previousSecretExpireTime ? time(key.previousSecretExpireTime) : null],
      ]),
      place,
      el('div', {class: 'actions'}, valid ? button('Rotate', () => rotateDialog(key)) : null,
         valid ? button('Revoke', async () => {
           if (!await confirmDialog(
                   'Revoke this key?', `${key.displayName} is refused from now on. That cannot be undone.`,
                   'Revoke the key'))
             return false;
           return post(resource(key.name, ':revoke'), {});
         }) : button('Delete', async () => {
           if (!await confirmDialog(
                   'Delete this key?', `${key.displayName} disappears from the list; the audit log keeps its name.`,
                   'Delete the key'))
             return false;
           return call('DELETE', resource(key.name));
         })));
}

// "checkpoints/0123abcd..." with its digest cut short.
const shortName = (name) => name.replace(/[0-9a-f]{20,}/g, (id) => id.slice(0, 10));

function auditRows(events) {
  return table(
      'Audit events', ['Time', 'Call', 'Resource', 'Result', 'Key', 'From'],
      events.map(
          (e) =>
              [time(e.time), e.method, el('span', {title: e.resource}, shortName(e.resource)),
               e.code === 'OK' ? 'OK' : `${e.code} ${e.reason}`, e.key ? idOf(e.key) : '–', e.peer]));
}

export async function showKeys(root, {signal}) {
  const who = el('div');
  const list = el('ul', {class: 'cards', 'aria-label': 'API keys'});
  const [place, audit] = [el('div'), el('div')];
  let keys = [];
  const make =
      el('button', {
        type: 'button',
        class: 'primary',
        onclick: () => withBusy(
            make, place,
            async () => {
              if (await newKeyDialog(keys.length === 0)) refresh();
            })
      },
         'New key');
  const more = el('button', {type: 'button', hidden: true}, 'Show more');
  let events = [];
  let pageToken = '';

  async function readAudit(from) {
    const page = await get('/v1/auditEvents', {pageSize: AUDIT_PAGE, pageToken: from}, signal);
    events = from ? [...events, ...(page.events ?? [])] : page.events ?? [];
    pageToken = page.nextPageToken ?? '';
    more.hidden = !pageToken;
    replace(audit, events.length ? auditRows(events) : empty('Nothing has been changed yet.'));
  }
  more.addEventListener('click', () => withBusy(more, place, () => readAudit(pageToken)));

  async function refresh() {
    try {
      const caller = await get('/v1/caller', {}, signal);
      const left = [['requests', caller.requestsLeft], ['tokens', caller.tokensLeft]]
                       .filter(([, n]) => Number(n) >= 0)
                       .map(([words, n]) => `${count(n)} ${words} left this minute`);
      replace(
          who,
          caller.key ?
              el('p', {class: 'sub'},
                 `You use ${caller.key.displayName} (${caller.scopes.map((s) => enumWord(s, 'SCOPE_')).join(', ')}). ${
                     left.join(', ')}`) :
              el('p', {class: 'notice'}, 'This server has no keys: everyone who reaches it may do everything.'));
      keys = await listAll('/v1/keys', 'keys', {signal});
      replace(list, keys.map((key) => keyCard(key, key.name === caller.key?.name, refresh)));
      await readAudit('');
      replace(place);
    } catch (error) {
      if (error.name !== 'AbortError')
        replace(place, errorBox(error, {title: 'The keys cannot be read', retry: refresh}));
    }
  }
  replace(
      root, who, el('div', {class: 'actions'}, make), place, list,
      el('section', {'aria-labelledby': 'audit-title'}, el('h2', {id: 'audit-title'}, 'Audit log'), audit, more));
  await refresh();
}
