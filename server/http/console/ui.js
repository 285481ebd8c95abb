// The parts that all views are made of: messages, fields, dialogs, bars, buttons that work.

import {adviceFor} from './advice.js';
import {ApiError} from './api.js';
import {el, replace, setText, svg} from './dom.js';

let ids = 0;
export const newId = (prefix) => `${prefix}-${++ids}`;

// Said to those who listen instead of look.
export function announce(text) {
  const live = document.getElementById('live');
  live.textContent = '';
  // A change of the same text would not be read again.
  setTimeout(() => {
    live.textContent = text;
  }, 50);
}

export function toast(text) {
  const node = el('div', {class: 'toast'}, text);
  document.getElementById('toasts').append(node);
  announce(text);
  setTimeout(() => node.remove(), 6000);
}

export function errorWords(error) {
  if (error instanceof ApiError) return error.message || error.reason || 'unknown error';
  return error?.message ?? String(error);
}

// What went wrong, its reason, and what can be done about it.
export function errorBox(error, {title = 'That did not work', retry} = {}) {
  const reason = error instanceof ApiError ? error.reason : error?.reason ?? '';
  const advice = adviceFor(error);
  const wait = error?.retryAfter > 0 ? `Try again in ${Math.ceil(error.retryAfter)} s.` : null;
  return el(
      'div', {class: 'error', role: 'alert'},
      el('p', {}, el('strong', {}, title), reason ? [' ', el('code', {}, reason)] : null),
      el('p', {class: 'message'}, errorWords(error)),
      advice || wait ? el('p', {class: 'advice'}, [advice, wait].filter(Boolean).join(' ')) : null,
      retry ? el('button', {type: 'button', onclick: retry}, 'Try again') : null);
}

// Runs `work` for a button: disabled meanwhile, its error shown in `place` (an element that is there for errors).
export async function withBusy(button, place, work) {
  if (button.getAttribute('aria-disabled') === 'true') return undefined;
  // Not `disabled`, which would take the focus away.
  button.setAttribute('aria-disabled', 'true');
  button.setAttribute('aria-busy', 'true');
  if (place) replace(place);
  try {
    return await work();
  } catch (error) {
    if (error.name === 'AbortError') return undefined;
    if (place)
      replace(place, errorBox(error));
    else
      toast(errorWords(error));
    return undefined;
  } finally {
    button.removeAttribute('aria-disabled');
    button.removeAttribute('aria-busy');
  }
}

// A labelled input with a hint below.
export function field(label, input, hint) {
  if (!input.id) input.id = newId('field');
  const hintId = hint ? newId('hint') : null;
  if (hintId) input.setAttribute('aria-describedby', hintId);
  return el('div', {class: 'field'}, el('label', { for: input.id
            }, label), input, hint ? el('p', {class: 'hint', id: hintId}, hint) : null);
}

export function checkbox(label, checked = false, props = {}) {
  const input = el('input', {type: 'checkbox', checked, ...props});
  return {input, node: el('label', {class: 'check'}, input, el('span', {}, label))};
}

// options: [[value, words], ...].
export function select(options, value, props = {}) {
  return el('select', {...props, value}, options.map(([key, words]) => el('option', {value: key}, words)));
}

export function numberInput(props = {}) {
  return el('input', {type: 'number', inputmode: 'decimal', step: 'any', ...props});
}

// 0..1, or null while nothing is known. `words` stand below it and are what is read out. Of what has ended (`done`)
// only the words are left.
export function progressBar(label) {
  const bar = el('div', {class: 'fill'});
  const words = el('span', {class: 'words'});
  const track = el(
      'div', {class: 'track', role: 'progressbar', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': 100}, bar);
  return {
    node: el('div', {class: 'progress'}, track, words),
    set(fraction, text = '', done = false) {
      const known = fraction !== null && Number.isFinite(fraction);
      const percent = known ? Math.round(1000 * Math.min(1, Math.max(0, fraction))) / 10 : 0;
      bar.style.width = `${percent}%`;
      track.hidden = done;
      if (known)
        track.setAttribute('aria-valuenow', String(Math.round(percent)));
      else
        track.removeAttribute('aria-valuenow');
      if (text) track.setAttribute('aria-valuetext', text);
      setText(words, text);
    },
  };
}

// How much of something is used: green, then amber, then red, with the numbers beside it.
export function meter(label, used, limit, text) {
  const fraction = limit > 0 ? used / limit : 0;
  const level = fraction > 0.9 ? 'high' : fraction > 0.75 ? 'middle' : 'low';
  const bar = el('div', {class: `fill ${level}`});
  bar.style.width = `${Math.min(100, 100 * fraction)}%`;
  return el(
      'div', {class: 'meter-row'}, el('div', {class: 'meter-label'}, el('span', {}, label), el('span', {}, text)),
      el('div', {
        class: 'track',
        role: 'meter',
        'aria-label': label,
        'aria-valuemin': 0,
        'aria-valuemax': 100,
        'aria-valuenow': Math.round(Math.min(100, 100 * fraction)),
        'aria-valuetext': text
      },
         bar));
}

// A modal dialog; the browser keeps the focus inside and gives it back. `build(close)` returns its content. Resolves
// with what close() was given, or undefined if it was left.
export function openDialog(title, build) {
  return new Promise((resolve) => {
    const titleId = newId('dialog');
    const dialog = el('dialog', {'aria-labelledby': titleId});
    let result;
    const close = (value) => {
      result = value;
      dialog.close();
    };
    dialog.append(
        el('div', {class: 'dialog-head'}, el('h2', {id: titleId}, title),
           el('button', {type: 'button', class: 'quiet', 'aria-label': 'Close', onclick: () => close()}, '✕')),
        build(close));
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
    // The first thing to fill in rather than the button that closes.
    dialog.querySelector('[autofocus], input, select, textarea, .actions button')?.focus();
  });
}

export function confirmDialog(title, text, action, {danger = true} = {}) {
  return openDialog(
      title,
      (close) =>
          el('div', {}, el('p', {}, text),
             el('div', {class: 'actions'},
                el('button', {type: 'button', autofocus: true, onclick: () => close(false)}, 'Keep as it is'),
                el('button', {type: 'button', class: danger ? 'danger' : 'primary', onclick: () => close(true)},
                   action))));
}

// A form in a dialog: fields, an error place, two buttons. submit() may throw; the dialog stays open then.
export function formDialog(title, fields, action, submit) {
  return openDialog(title, (close) => {
    const place = el('div');
    const button = el('button', {type: 'submit', class: 'primary'}, action);
    const form =
        el('form', {}, fields, place,
           el('div', {class: 'actions'}, el('button', {type: 'button', onclick: () => close()}, 'Cancel'), button));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      withBusy(button, place, async () => close(await submit() ?? true));
    });
    return form;
  });
}

export function badge(words, kind = '') {
  return el('span', {class: `badge ${kind}`}, words);
}

export function empty(text, ...more) {
  return el('div', {class: 'empty'}, el('p', {}, text), more);
}

// A table that scrolls sideways in its own box, which the keyboard can reach.
export function table(caption, columns, rows, props = {}) {
  return el(
      'div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption},
      el('table', props, el('caption', {class: 'visually-hidden'}, caption),
         el('thead', {}, el('tr', {}, columns.map((words) => el('th', {scope: 'col'}, words)))),
         el('tbody', {},
            rows.map(
                (cells) =>
                    el('tr', {},
                       cells.map((cell, i) => (i === 0 ? el('th', {scope: 'row'}, cell) : el('td', {}, cell))))))));
}

export function definitions(pairs) {
  return el(
      'dl', {class: 'facts'},
      pairs.filter(([, value]) => value !== null && value !== undefined && value !== '')
          .map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

// Two sheets, one behind the other; drawn, since few fonts have a sign for it.
function copyIcon() {
  return svg(
      'svg', {class: 'icon', width: 14, height: 14, viewBox: '0 0 14 14', 'aria-hidden': 'true'},
      svg('path', {d: 'M5 5h7.5v7.5H5zM9.5 5V1.5H2V9h3'}));
}

// A digest cut short, whole in its title, with a button that copies it.
export function copyable(text, shown = text) {
  const button =
      el('button', {type: 'button', class: 'quiet small', 'aria-label': `Copy ${text}`, onclick: () => copyText(text)},
         copyIcon());
  return el('span', {class: 'copyable'}, el('code', {title: text}, shown), button);
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast('Copied');
  } catch {
    // No clipboard without a secure connection: the reader copies it by hand.
    await openDialog('Copy this', () => el('textarea', {readonly: true, rows: 3, value: text}));
  }
}

// Calls `work` now, again every `milliseconds` while the page can be seen, and at once when it comes back into view.
export function whileVisible(milliseconds, signal, work) {
  let timer = 0;
  let running = false;
  const tick = async () => {
    clearTimeout(timer);
    if (running || signal.aborted) return;
    if (document.visibilityState === 'visible') {
      running = true;
      try {
        await work();
      } finally {
        running = false;
      }
    }
    if (!signal.aborted) timer = setTimeout(tick, milliseconds);
  };
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState === 'visible') tick();
  }, {signal});
  signal.addEventListener('abort', () => clearTimeout(timer), {once: true});
  return tick();
}
