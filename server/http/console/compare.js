// One prompt, the answers of two models, and how far the second is from the first at each token: KL(base || other).

import {get, post, resource} from './api.js';
import {el, replace, setText} from './dom.js';
import {idOf, number, percent, tokenText, visible} from './format.js';
import {Plot} from './plot.js';
import {ask, samplingFields, usageWords} from './sampling.js';
import {isReady, listServed, loadDialog} from './served.js';
import {announce, checkbox, empty, errorBox, field, select, withBusy} from './ui.js';

// Upper ends of the levels, nats; what is above the last has a level of its own.
const LEVELS = [0.001, 0.01, 0.05, 0.2, 1];
const levelOf = (kl) => LEVELS.filter((end) => kl > end).length;

function legend() {
  const ends = ['up to 0.001', '0.01', '0.05', '0.2', '1 nat', 'more'];
  return el(
      'ul', {class: 'legend', 'aria-label': 'Colours'},
      ends.map((words, i) => el('li', {}, el('span', {class: `swatch kl-${i}`, 'aria-hidden': 'true'}), words)),
      el('li', {}, el('span', {class: 'token differs', 'aria-hidden': 'true'}, 'abc'), 'another first choice'));
}

const chance = (logprob) => percent(Math.exp(logprob), 2);

function tokenWords(token) {
  const agreement = token.sameTop ? 'the same first choice' :
                                    `the other's first choice is “${visible(tokenText(token.otherTopText))}”`;
  return `“${visible(tokenText(token.text))}”: KL ${number(token.kl)} nats · probability ${
      chance(token.baseLogprob)} under the base, ${chance(token.otherLogprob)} under the other · ${agreement}`;
}

// The answer's tokens, coloured. One stop for the tabulator; the arrows walk, and what is at the pointer or the focus
// stands in `detail`.
function tokenList(tokens, label, detail) {
  const nodes = tokens.map(
      (token, i) =>
          el('span', {
            class: `token kl-${levelOf(token.kl)}${token.sameTop ? '' : ' differs'}`,
            role: 'option',
            tabindex: i === 0 ? 0 : -1,
            'aria-label': tokenWords(token),
            'aria-selected': 'false',
          },
             tokenText(token.text)));
  let current = 0;
  const show = (i) => setText(detail, tokenWords(tokens[i]));
  const choose = (i) => {
    nodes[current].tabIndex = -1;
    nodes[current].setAttribute('aria-selected', 'false');
    current = i;
    nodes[i].tabIndex = 0;
    nodes[i].setAttribute('aria-selected', 'true');
    show(i);
  };
  const list =
      el('div', {class: 'words tokens', role: 'listbox', 'aria-label': label, 'aria-orientation': 'horizontal'}, nodes);
  const indexOf = (event) => nodes.indexOf(event.target);
  list.addEventListener('mouseover', (event) => {
    if (indexOf(event) >= 0) show(indexOf(event));
  });
  list.addEventListener('focusin', (event) => {
    if (indexOf(event) >= 0) choose(indexOf(event));
  });
  list.addEventListener('click', (event) => {
    if (indexOf(event) >= 0) nodes[indexOf(event)].focus();
  });
  list.addEventListener('keydown', (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    const to = event.key === 'Home' ? 0 : event.key === 'End' ? nodes.length - 1 : step ? current + step : -1;
    if (to < 0 || to >= nodes.length) return;
    event.preventDefault();
    nodes[to].focus();
  });
  return list;
}

function pane(title, signal) {
  const words = el('div', {class: 'words'});
  const summary = el('p', {class: 'sub'});
  const detail = el('p', {class: 'detail'});
  const usage = el('p', {class: 'sub'});
  const place = el('div');
  const plot = new Plot(signal);
  const heading = el('h2', {}, title);
  return {
    node: el('section', {class: 'answer'}, heading, words, usage, place, summary, detail, plot.node),
    heading,
    words,
    summary,
    detail,
    usage,
    place,
    plot
  };
}

function showComparison(part, result, label) {
  if (result.tokens.length === 0) {
    setText(part.summary, 'Nothing to compare.');
    return;
  }
  replace(part.words, tokenList(result.tokens, label, part.detail));
  part.words.className = 'compared';
  setText(
      part.summary,
      `Mean KL ${number(result.klMean)} nats a token · same first choice for ${percent(result.top1Agreement)} of ${
          result.tokens.length} tokens`);
  setText(part.detail, 'Point at a token, or walk through them with the arrow keys.');
  part.plot.set({
    title: 'KL along the answer',
    height: 180,
    x: {
      label: 'Token',
      labels: result.tokens.map((_, i) => [i, String(i + 1)]).filter(([i]) => (i + 1) % 10 === 0 || i === 0)
    },
    y: {label: 'KL, nats', ticks: 3},
    series: [{name: label, bars: true, points: result.tokens.map((t, i) => ({x: i, y: t.kl, note: tokenWords(t)}))}],
    columns: ['Token', 'KL', 'Base', 'Other', 'First choice'],
    rows: result.tokens.map(
        (t) =>
            [visible(tokenText(t.text)), number(t.kl), chance(t.baseLogprob), chance(t.otherLogprob),
             t.sameTop ? 'same' : visible(tokenText(t.otherTopText))]),
  });
}

export async function showCompare(root, {signal, query}) {
  const models = (await listServed(signal)).filter(isReady);
  if (models.length === 0) {
    replace(
        root,
        empty(
            'No model is served. Load a checkpoint and an artifact made from it.',
            el('a', {class: 'button primary', href: '#/models'}, 'Models')));
    return;
  }
  const options = models.map((m) => [idOf(m.name), idOf(m.name)]);
  const quantized = models.find((m) => m.source.startsWith('artifacts/'));
  const other = select(options, query.get('other') ?? idOf((quantized ?? models[0]).name));
  const base = select(options, query.get('base') ?? idOf((models.find((m) => m !== quantized) ?? models[0]).name));
  const prompt = el('textarea', {rows: 3, required: true});
  const plain = checkbox('Plain text: no chat template');
  const sampling = samplingFields({maxTokens: 128, temperature: 0});
  const start = el('button', {type: 'submit', class: 'primary'}, 'Ask both');
  const stop = el('button', {type: 'button', hidden: true}, 'Stop');
  const [place, hint] = [el('div'), el('div')];
  const host = el('div', {class: 'columns'});
  let running = null;
  let drawn = new AbortController();
  signal.addEventListener('abort', () => {
    running?.abort();
    drawn.abort();
  }, {once: true});
  const modelOf = (control) => models.find((m) => idOf(m.name) === control.value);

  // The checkpoint that the other model was made from, if it is served; else a way to load it.
  async function findBase() {
    replace(hint);
    plain.input.checked = modelOf(other) !== undefined && !modelOf(other).chat;
    const source = modelOf(other)?.source ?? '';
    if (!source.startsWith('artifacts/')) return;
    const artifact = await get(resource(source), {}, signal);
    const served = models.find((m) => m.source === artifact.checkpoint);
    if (served) {
      base.value = idOf(served.name);
      return;
    }
    replace(
        hint,
        el('div', {class: 'notice'}, el('p', {}, 'The checkpoint that this artifact was made from is not served.'),
           el('button', {
             type: 'button',
             onclick: (event) => withBusy(
                 event.currentTarget, hint,
                 async () => {
                   if (await loadDialog(artifact.checkpoint, 'the base model')) showCompare(root, {signal, query});
                 })
           },
              'Load the base model')));
  }
  const tryFindBase = () => findBase().catch((error) => {
    if (error.name !== 'AbortError') replace(hint, errorBox(error, {title: 'The base model cannot be found'}));
  });
  other.addEventListener('change', tryFindBase);

  async function run() {
    drawn.abort();
    drawn = new AbortController();
    const parts = [pane(`Base: ${base.value}`, drawn.signal), pane(`Other: ${other.value}`, drawn.signal)];
    replace(host, parts.map((p) => p.node));
    const question = plain.input.checked ? {prompt: prompt.value} : {messages: [{role: 'user', content: prompt.value}]};
    const params = sampling.value();
    const texts = await Promise.all([base.value, other.value].map(async (model, i) => {
      let text = '';
      try {
        const last = await ask({model, ...question, params}, (piece) => {
          text += piece;
          parts[i].words.append(piece);
        }, running.signal);
        setText(parts[i].usage, usageWords(last));
      } catch (error) {
        if (error.name === 'AbortError') throw error;
        replace(parts[i].place, errorBox(error, {title: 'The answer did not come'}));
        return '';
      }
      return text;
    }));
    await Promise.all(texts.map(async (text, i) => {
      if (!text) return;
      try {
        const result = await post(
            '/v1/inference:compare', {base: base.value, other: other.value, text, ...question}, running.signal);
        showComparison(parts[i], result, i === 0 ? 'The base model\'s answer' : 'The other model\'s answer');
      } catch (error) {
        if (error.name === 'AbortError') throw error;
        replace(parts[i].place, errorBox(error, {title: 'The answers cannot be compared'}));
      }
    }));
    announce('The answers are compared');
  }

  const form =
      el('form', {class: 'form'}, el('div', {class: 'pair'}, field('Base', base), field('Other', other)), hint,
         field('Prompt', prompt), plain.node, sampling.node, place, el('div', {class: 'actions'}, start, stop));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    withBusy(start, place, async () => {
      running = new AbortController();
      stop.hidden = false;
      try {
        await run();
      } finally {
        stop.hidden = true;
        running = null;
      }
    });
  });
  stop.addEventListener('click', () => running?.abort());
  replace(
      root,
      el('p', {class: 'hint'},
         'Both models answer. Then each answer is read by both, and every token is coloured by how far the second ' +
             'model\'s choice there is from the first one\'s.'),
      form, legend(), host);
  if (!query.get('base')) await tryFindBase();
}
