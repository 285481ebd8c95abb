// A chat with a served model. What it says is text, whatever it looks like.

import {el, replace, setText} from './dom.js';
import {ask, samplingFields, usageWords} from './sampling.js';
import {askable} from './served.js';
import {announce, checkbox, empty, errorBox, field, select} from './ui.js';

const SLOT = 'qamserve.chat';

function storedMessages() {
  try {
    const messages = JSON.parse(sessionStorage.getItem(SLOT) ?? '[]');
    return Array.isArray(messages) ? messages.filter((m) => typeof m?.content === 'string') : [];
  } catch {
    return [];
  }
}

function storeMessages(messages) {
  try {
    sessionStorage.setItem(SLOT, JSON.stringify(messages));
  } catch {
    // Longer than the browser keeps: it lasts as long as the page.
  }
}

const WHO = {
  user: 'You',
  assistant: 'Model',
  system: 'System'
};

// One turn; text is added to `words` as it comes.
function turn(message) {
  const words = document.createTextNode(message.content);
  const note = el('p', {class: 'sub note'}, message.note ?? '');
  return {
    node:
        el('article', {class: `turn ${message.role}`, 'aria-label': WHO[message.role] ?? message.role},
           el('h2', {class: 'who'}, WHO[message.role] ?? message.role), el('div', {class: 'words'}, words), note),
    words,
    note,
  };
}

export async function showChat(root, {signal, query}) {
  const targets = await askable(signal);
  if (targets.length === 0) {
    replace(root, empty('No model is served.', el('a', {class: 'button primary', href: '#/models'}, 'Load one')));
    return;
  }
  const model = select(targets.map((t) => [t.value, t.words]), query.get('model') ?? targets[0].value);
  if (model.selectedIndex < 0) model.selectedIndex = 0;
  const plain = checkbox('Plain text: no chat template, the model goes on from what you wrote');
  const system = el('textarea', {rows: 2});
  const sampling = samplingFields({maxTokens: 512, temperature: 0.7});
  const log =
      el('div', {class: 'chat-log', role: 'log', 'aria-label': 'Conversation', 'aria-live': 'off', tabindex: 0});
  const place = el('div');
  const input = el('textarea', {rows: 3, placeholder: 'Enter sends, Shift and Enter begin a new line'});
  const send = el('button', {type: 'submit', class: 'primary'}, 'Send');
  const stop = el('button', {type: 'button', hidden: true}, 'Stop');
  const again = el('button', {type: 'button'}, 'Answer again');
  const clear = el('button', {type: 'button'}, 'Clear');
  let messages = storedMessages();
  let running = null;

  const draw = () => {
    replace(
        log,
        messages.length === 0 ? el('p', {class: 'sub'}, 'Nothing has been said yet.') :
                                messages.map((m) => turn(m).node));
    log.scrollTop = log.scrollHeight;
    again.hidden = messages[messages.length - 1]?.role !== 'assistant';
    clear.hidden = messages.length === 0;
  };
  const syncMode = () => {
    const chosen = targets.find((t) => t.value === model.value);
    if (chosen?.model && !chosen.model.chat) plain.input.checked = true;
  };
  model.addEventListener('change', syncMode);
  syncMode();
  draw();

  const request = () => {
    const base = {model: model.value, params: sampling.value()};
    if (plain.input.checked) return {...base, prompt: messages.map((m) => m.content).join('')};
    const turns = messages.map(({role, content}) => ({role, content}));
    return {...base, messages: system.value.trim() ? [{role: 'system', content: system.value}, ...turns] : turns};
  };

  async function answer() {
    running = new AbortController();
    const mine = running;
    send.setAttribute('aria-disabled', 'true');
    stop.hidden = false;
    again.hidden = true;
    replace(place);
    const asked = request();
    const message = {role: 'assistant', content: '', note: ''};
    const shown = turn(message);
    log.append(shown.node);
    log.setAttribute('aria-busy', 'true');
    try {
      const last = await ask(asked, (text) => {
        const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
        message.content += text;
        shown.words.appendData(text);
        if (atEnd) log.scrollTop = log.scrollHeight;
      }, mine.signal);
      message.note = usageWords(last);
      announce(`The answer is there: ${message.content.slice(0, 2000)}`);
    } catch (error) {
      message.note = error.name === 'AbortError' ? 'stopped' : 'not finished';
      if (error.name !== 'AbortError')
        replace(place, errorBox(error, {title: 'The answer did not come'}));
      else
        announce('Stopped');
    }
    setText(shown.note, message.note);
    log.removeAttribute('aria-busy');
    if (message.content)
      messages.push(message);
    else if (message.note === 'stopped' || message.note === 'not finished')
      shown.node.remove();
    storeMessages(messages);
    running = null;
    send.removeAttribute('aria-disabled');
    stop.hidden = true;
    again.hidden = messages[messages.length - 1]?.role !== 'assistant';
    clear.hidden = messages.length === 0;
  }

  const form =
      el('form', {class: 'chat-form'}, field('Your message', input),
         el('div', {class: 'actions'}, send, stop, again, clear));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    if (running || input.value.trim() === '') return;
    const message = {role: 'user', content: input.value};
    messages.push(message);
    input.value = '';
    if (messages.length === 1) replace(log);
    log.append(turn(message).node);
    log.scrollTop = log.scrollHeight;
    answer();
  });
  input.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  stop.addEventListener('click', () => {
    running?.abort();
    input.focus();
  });
  again.addEventListener('click', () => {
    if (running) return;
    messages.pop();
    draw();
    answer();
  });
  clear.addEventListener('click', () => {
    running?.abort();
    messages = [];
    storeMessages(messages);
    replace(place);
    draw();
    input.focus();
  });
  signal.addEventListener('abort', () => running?.abort(), {once: true});

  replace(
      root, el('div', {class: 'pair'}, field('Model', model), field('System prompt', system)), plain.node,
      sampling.node, log, place, form);
  log.scrollTop = log.scrollHeight;
}
