// Start here. Routes of the page, the head with its key and colours, and the life of a view: show(root, context) draws
// it, and context.signal is aborted when it is left, which ends its requests, streams and timers.

import {apiKey, get, onUnauthorized, setApiKey} from './api.js';
import {showArtifacts} from './artifacts.js';
import {showChat} from './chat.js';
import {showCompare} from './compare.js';
import {el, replace, setText} from './dom.js';
import {showJob} from './job.js';
import {showJobs} from './jobs.js';
import {showKeys} from './keys.js';
import {showModels} from './models.js';
import {showNewJob} from './new_job.js';
import {showSystem} from './system.js';
import {announce, errorBox, field, formDialog, toast} from './ui.js';

// The first pattern that fits. `nav` is the entry of the menu that is marked.
const ROUTES = [
  {pattern: /^jobs$/, title: 'Jobs', nav: 'jobs', show: showJobs},
  {pattern: /^jobs\/new$/, title: 'New job', nav: 'jobs', show: showNewJob},
  {pattern: /^jobs\/([^/]+)$/, title: 'Job', nav: 'jobs', show: showJob},
  {pattern: /^artifacts$/, title: 'Artifacts', nav: 'artifacts', show: showArtifacts},
  {pattern: /^models$/, title: 'Models', nav: 'models', show: showModels},
  {pattern: /^chat$/, title: 'Chat', nav: 'chat', show: showChat},
  {pattern: /^compare$/, title: 'Compare', nav: 'compare', show: showCompare},
  {pattern: /^system$/, title: 'System', nav: 'system', show: showSystem},
  {pattern: /^keys$/, title: 'Keys', nav: 'keys', show: showKeys},
];
const MENU = ['jobs', 'artifacts', 'models', 'chat', 'compare', 'system', 'keys'];

let leave = new AbortController();
let askingForKey = false;
let keyDeclined = false;  // the reader closed the dialog: the next page may ask again

function currentRoute() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  return {path: path || 'jobs', query: new URLSearchParams(query)};
}

function markMenu(nav) {
  for (const link of document.querySelectorAll('#nav a')) {
    if (link.dataset.nav === nav)
      link.setAttribute('aria-current', 'page');
    else
      link.removeAttribute('aria-current');
  }
}

async function showRoute({focus = true} = {}) {
  leave.abort();
  leave = new AbortController();
  const {signal} = leave;
  const {path, query} = currentRoute();
  const route = ROUTES.find((candidate) => candidate.pattern.test(path));
  const main = document.getElementById('main');
  if (!route) {
    replace(main, el('h1', {}, 'Not here'), el('p', {}, 'There is no such page. ', el('a', {href: '#/jobs'}, 'Jobs')));
    return;
  }
  document.title = `${route.title} · qamserve`;
  markMenu(route.nav);
  const heading = el('h1', {tabindex: -1}, route.title);
  const root = el('div', {class: `view view-${route.nav}`});
  replace(main, heading, root);
  if (focus) {
    window.scrollTo(0, 0);
    heading.focus({preventScroll: true});
  }
  const setTitle = (text) => {
    setText(heading, text);
    document.title = `${text} · qamserve`;
  };
  try {
    const parameters = route.pattern.exec(path).slice(1).map((part) => decodeURIComponent(part));
    await route.show(root, {signal, query, parameters, setTitle});
  } catch (error) {
    if (error.name === 'AbortError' || signal.aborted) return;
    root.prepend(errorBox(error, {retry: () => showRoute({focus: false})}));
  }
}

function showKeyState() {
  const button = document.getElementById('key');
  const has = apiKey() !== '';
  setText(button, has ? 'API key: set' : 'API key');
  button.setAttribute('aria-label', has ? 'API key, set. Change' : 'API key, none. Enter');
}

async function askForKey(why) {
  if (askingForKey) return;
  askingForKey = true;
  const input = el('input', {type: 'password', autocomplete: 'off', spellcheck: 'false', value: apiKey()});
  const done = await formDialog(
      'API key',
      [
        why ? el('p', {class: 'notice'}, why) : null,
        field('Key', input, 'Stays in this tab and is forgotten when it is closed. Leave empty to forget it now.'),
      ],
      'Use', async () => {
        const before = apiKey();
        setApiKey(input.value.trim());
        try {
          await get('/v1/caller');
        } catch (error) {
          if (error.http === 401) {
            setApiKey(before);
            throw error;
          }
        }
        return true;
      });
  askingForKey = false;
  keyDeclined = !done;
  showKeyState();
  if (done) {
    toast(apiKey() ? 'The key is in use' : 'No key is in use');
    showRoute({focus: false});
  }
}

function startTheme() {
  const select = document.getElementById('theme');
  select.value = document.documentElement.dataset.theme ?? 'system';
  select.addEventListener('change', () => {
    if (select.value === 'system')
      delete document.documentElement.dataset.theme;
    else
      document.documentElement.dataset.theme = select.value;
    try {
      localStorage.setItem('qamserve.theme', select.value);
    } catch {
      // For this visit only.
    }
  });
}

function start() {
  replace(
      document.getElementById('nav'),
      MENU.map(
          (name) =>
              el('li', {}, el('a', {href: `#/${name}`, 'data-nav': name}, name[0].toUpperCase() + name.slice(1)))));
  document.getElementById('skip').addEventListener('click', (event) => {
    event.preventDefault();  // the fragment belongs to the routes
    document.getElementById('main').focus();
  });
  document.getElementById('key').addEventListener('click', () => askForKey(''));
  document.addEventListener('qamserve:key', showKeyState);
  onUnauthorized((error) => {
    if (!keyDeclined) askForKey(error.message || 'This server wants an API key.');
  });
  startTheme();
  showKeyState();
  window.addEventListener('hashchange', () => {
    keyDeclined = false;
    showRoute();
    announce(document.title);
  });
  showRoute({focus: false});
}

start();
