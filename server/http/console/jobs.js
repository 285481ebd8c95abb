// The list of jobs, live: the jobs that run are followed by their streams, and the list is read again when one ends.

import {call, get, isFinal, post, resource, watchJob} from './api.js';
import {el, KeyedList, replace, setText} from './dom.js';
import {enumWord, idOf, percent, seconds, secondsBetween, shortId, specWords, time} from './format.js';
import {
  announce,
  badge,
  confirmDialog,
  empty,
  errorBox,
  field,
  progressBar,
  select,
  whileVisible,
  withBusy
} from './ui.js';

// A browser opens six connections to a server over HTTP/1.1, for all its tabs together: lists follow this many jobs.
const MAX_WATCHED = 2;
const REFRESH_MS = 20000;
const PAGE_SIZE = 50;

const STATE_KINDS = {
  JOB_STATE_QUEUED: '',
  JOB_STATE_RUNNING: 'busy',
  JOB_STATE_GATING: 'busy',
  JOB_STATE_SUCCEEDED: 'good',
  JOB_STATE_REJECTED: 'bad',
  JOB_STATE_FAILED: 'bad',
  JOB_STATE_CANCELLED: 'muted',
};
export const stateBadge = (state) => badge(enumWord(state, 'JOB_STATE_'), STATE_KINDS[state] ?? '');
export const jobTitle = (job) => job.displayName || `${job.kind} ${shortId(job.name)}`;

// 0..1 over all tasks, the running stage's own fraction not counted, and words for it.
export function progressOf(job) {
  const p = job.progress ?? {};
  if (job.state === 'JOB_STATE_SUCCEEDED') return {fraction: 1, words: ''};
  const fraction = p.tasksTotal > 0 ? p.tasksDone / p.tasksTotal : null;
  if (isFinal(job)) return {fraction, words: `${p.tasksDone ?? 0} of ${p.tasksTotal ?? 0} tasks done`};
  const words = [];
  if (job.state === 'JOB_STATE_QUEUED') {
    words.push(p.queuePosition > 0 ? `number ${p.queuePosition} in the queue` : 'queued');
    if (p.waitingFor) words.push(`waits for ${p.waitingFor}`);
  } else {
    words.push(
        `${p.stage || 'starting'} ${percent(p.stageFraction ?? 0, 0)}`, `${p.tasksDone} of ${p.tasksTotal} tasks`);
    words.push(p.etaSeconds >= 0 ? `${seconds(p.etaSeconds)} left` : 'time left not known yet');
    if (p.waitingFor) words.push(`waits for ${p.waitingFor}`);
  }
  return {fraction, words: words.join(' · ')};
}

// Buttons for what may be done with a job in its state. done(job) gets the job as it is afterwards, null if deleted.
export function jobActions(job, place, done) {
  const act = (words, work, kind = '') =>
      el('button', {
        type: 'button',
        class: kind,
        'aria-label': `${words} ${jobTitle(job)}`,
        onclick: (event) => withBusy(event.currentTarget, place, work)
      },
         words);
  if (!isFinal(job)) {
    return [act('Cancel', async () => {
      if (!await confirmDialog(
              'Cancel this job?',
              `${jobTitle(job)} ends. What it has done is kept for a week and Retry goes on from there.`,
              'Cancel the job'))
        return;
      done(await post(resource(job.name, ':cancel'), {}));
      announce('The job is cancelled');
    })];
  }
  const actions = [];
  if (job.state === 'JOB_STATE_FAILED' || job.state === 'JOB_STATE_CANCELLED') {
    actions.push(act('Retry', async () => {
      done(await post(resource(job.name, ':retry'), {}));
      announce('The job goes on');
    }, 'primary'));
  }
  actions.push(act('Delete', async () => {
    if (!await confirmDialog(
            'Delete this job?', `${jobTitle(job)} is forgotten. Its artifact stays.`, 'Delete the job'))
      return;
    await call('DELETE', resource(job.name));
    done(null);
    announce('The job is deleted');
  }));
  return actions;
}

function makeCard(first, onChange) {
  const title = el('a', {href: `#/jobs/${encodeURIComponent(idOf(first.name))}`});
  const state = el('span');
  const facts = el('p', {class: 'sub'});
  const bar = progressBar(`Progress of ${jobTitle(first)}`);
  const error = el('p', {class: 'error-line'});
  const place = el('div');
  const actions = el('div', {class: 'actions'});
  const node =
      el('li', {class: 'card job'}, el('div', {class: 'card-head'}, el('h2', {}, title), state), facts, bar.node, error,
         place, actions);
  let shownState = '';
  return {
    node,
    update(job) {
      setText(title, jobTitle(job));
      const when = isFinal(job) && job.startTime && job.endTime ?
          `took ${seconds(secondsBetween(job.startTime, job.endTime))}` :
          `created ${time(job.createTime)}`;
      setText(facts, [job.kind, job.kind === 'quantize' ? specWords(job.spec) : '', when].filter(Boolean).join(' · '));
      const {fraction, words} = progressOf(job);
      bar.set(fraction, words, isFinal(job));
      setText(error, job.error ? `${job.error.reason}: ${job.error.message}` : '');
      error.hidden = !job.error;
      if (job.state === shownState) return;
      shownState = job.state;
      replace(state, stateBadge(job.state));
      replace(actions, jobActions(job, place, onChange));
    },
  };
}

export async function showJobs(root, {signal, query}) {
  const filter = select(
      [['', 'All'], ...Object.keys(STATE_KINDS).map((s) => [s, enumWord(s, 'JOB_STATE_')])], query.get('state') ?? '');
  const list = el('ul', {class: 'cards', 'aria-label': 'Jobs'});
  const trouble = el('div');
  const nothing = el('div');
  const more = el('button', {type: 'button', hidden: true}, 'Show more');
  replace(
      root,
      el('div', {class: 'bar'}, el('a', {class: 'button primary', href: '#/jobs/new'}, 'New job'),
         field('State', filter)),
      trouble, list, nothing, more);

  const jobs = new Map();
  const watched = new Map();  // name -> AbortController
  let pages = 1;
  const cards = new KeyedList(list, (job) => job.name, (job) => makeCard(job, () => refresh()));

  const draw = () => {
    cards.set([...jobs.values()]);
    replace(
        nothing,
        jobs.size > 0 ? null :
                        empty(
                            filter.value ? 'No job is in this state.' : 'No jobs yet.',
                            filter.value ? null :
                                           el('p', {}, 'Put a checkpoint in on ', el('a', {href: '#/models'}, 'Models'),
                                              ', then start one.')));
  };

  async function follow(job) {
    const stop = new AbortController();
    watched.set(job.name, stop);
    let ended = false;
    try {
      await watchJob(job.name, (now) => {
        if (stop.signal.aborted || !jobs.has(now.name)) return;
        jobs.set(now.name, now);
        cards.get(now.name)?.update(now);
        ended = isFinal(now);
        if (ended) announce(`${jobTitle(now)}: ${enumWord(now.state, 'JOB_STATE_')}`);
      }, stop.signal);
    } catch {
      // Left, deleted, or refused: the list says how things stand.
    }
    if (watched.get(job.name) === stop) watched.delete(job.name);
    if (ended) refresh();
  }

  // Those that run come first, then those that run next.
  function chooseWatched() {
    const open = [...jobs.values()].filter((job) => !isFinal(job));
    const rank = (job) => (job.state === 'JOB_STATE_QUEUED' ? 1 + (job.progress?.queuePosition ?? 1) : 0);
    const chosen = open.sort((a, b) => rank(a) - rank(b)).slice(0, MAX_WATCHED);
    for (const [name, stop] of watched) {
      if (!chosen.some((job) => job.name === name)) stop.abort();
    }
    for (const job of chosen) {
      if (!watched.has(job.name)) follow(job);
    }
  }

  async function refresh() {
    try {
      const found = [];
      let pageToken = '';
      for (let page = 0; page < pages; ++page) {
        const answer = await get('/v1/jobs', {pageSize: PAGE_SIZE, pageToken, state: filter.value}, signal);
        found.push(...(answer.jobs ?? []));
        pageToken = answer.nextPageToken ?? '';
        if (!pageToken) break;
      }
      more.hidden = !pageToken;
      jobs.clear();
      for (const job of found) jobs.set(job.name, job);
      replace(trouble);
      draw();
      chooseWatched();
    } catch (error) {
      if (error.name !== 'AbortError')
        replace(trouble, errorBox(error, {title: 'The jobs cannot be read', retry: refresh}));
    }
  }

  filter.addEventListener('change', () => {
    pages = 1;
    refresh();
  });
  more.addEventListener('click', () => {
    ++pages;
    refresh();
  });
  const stopWatching = () => {
    for (const stop of watched.values()) stop.abort();
  };
  signal.addEventListener('abort', stopWatching, {once: true});
  // A page that nobody looks at holds no connections.
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState === 'hidden') stopWatching();
  }, {signal});
  await whileVisible(REFRESH_MS, signal, refresh);
}
