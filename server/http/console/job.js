// One job: its stages, its tensors and candidates as they come, its result or its error.

import {adviceFor} from './advice.js';
import {get, isFinal, resource, watchJob} from './api.js';
import {el, replace} from './dom.js';
import {saveBlob} from './download.js';
import {bytes, count, enumWord, idOf, number, percent, shortId, specWords, time} from './format.js';
import {JobTensors} from './job_tensors.js';
import {jobActions, jobTitle, progressOf, stateBadge} from './jobs.js';
import {Plot} from './plot.js';
import {rateCurve} from './tensors.js';
import {announce, copyable, definitions, errorBox, progressBar, table, toast, withBusy} from './ui.js';

const STAGES = {
  quantize: ['calibrate', 'quantize', 'assemble', 'evaluate'],
  evaluate: ['evaluate'],
  study: ['calibrate', 'quantize', 'assemble', 'evaluate', 'probe'],
};

function stagesOf(job) {
  const stages = [...(STAGES[job.kind] ?? [])];
  if (job.kind === 'quantize' && Object.values(job.spec?.target ?? {}).some((v) => Number(v) > 0))
    stages.push('probe', 'allocate');
  if (job.progress?.stage && !stages.includes(job.progress.stage)) stages.push(job.progress.stage);
  return stages;
}

// The stages in a row, the running one marked. Jobs with rounds come back to earlier ones.
function stageList(job) {
  const stages = stagesOf(job);
  const current = stages.indexOf(job.progress?.stage);
  const done = job.state === 'JOB_STATE_SUCCEEDED';
  return el('ol', {class: 'stages', 'aria-label': 'Stages'}, stages.map((stage, i) => {
    const past = done || (current >= 0 && i < current);
    const now = !isFinal(job) && job.state !== 'JOB_STATE_QUEUED' && i === current;
    return el(
        'li',
        {class: past ? 'past' :
             now     ? 'now' :
                       '',
         'aria-current': now ? 'step' : null},
        past ? el('span', {'aria-hidden': 'true'}, '✓ ') : null, stage,
        now ? ` ${percent(job.progress.stageFraction ?? 0, 0)}` : null);
  }));
}

function errorOfJob(job) {
  if (!job.error) return null;
  const advice = adviceFor(job.error);
  return el(
      'div', {class: 'error'},
      el('p', {},
         el('strong', {},
            job.state === 'JOB_STATE_REJECTED' ? 'A gate refused the artifact' : 'The job ended with an error'),
         ' ', el('code', {}, job.error.reason)),
      el('p', {class: 'message'}, job.error.message), advice ? el('p', {class: 'advice'}, advice) : null);
}

function factsOf(job) {
  const p = job.progress ?? {};
  const spec = job.spec ?? {};
  const estimate = job.estimate ?? {};
  const text = (selection) => {
    if (!selection) return null;
    const source = selection.text ?
        (selection.text === 'texts/built-in' ? 'built-in text' : `text ${shortId(selection.text)}`) :
                                               'the model\'s own samples';
    return `${source}${selection.windows ? `, ${selection.windows} × ${selection.windowTokens || 1024} tokens` : ''}`;
  };
  return definitions([
    ['Method', job.kind === 'quantize' ? specWords(spec) : job.kind],
    ['Checkpoint', job.checkpoint ? copyable(job.checkpoint, shortId(job.checkpoint)) : null],
    ['Calibration', job.kind === 'quantize' ? text(spec.calibration) : null],
    ['Evaluation', text(spec.evaluation)],
    ['Gate', spec.maxKl > 0 ? `mean KL at most ${number(spec.maxKl)}` : null],
    ['Weights done', Number(p.weightsTotal) > 0 ? `${count(p.weightsDone)} of ${count(p.weightsTotal)}` : null],
    [
      'Estimate',
      estimate.artifactBytes ? `${bytes(estimate.artifactBytes)} artifact, ${bytes(estimate.peakMemoryBytes)} memory, ${
                                   bytes(estimate.diskBytes)} disk` :
                               null
    ],
    ['Priority', job.priority || null],
    ['Created', time(job.createTime)],
    ['Started', job.startTime ? time(job.startTime) : null],
    ['Ended', job.endTime ? time(job.endTime) : null],
    ['Name', copyable(job.name)],
  ]);
}

function resultOf(job) {
  const q = job.quality;
  if (!q && !job.artifact) return null;
  // The estimate of a ladder is of all its artifacts together.
  const kept = (job.candidates ?? []).find((c) => c.artifact && c.artifact === job.artifact) ?? job.estimate ?? {};
  return el(
      'section', {'aria-label': 'Result'}, el('h2', {}, 'Result'),
      q ? el('div', {class: 'tiles'},
             tile(
                 'Perplexity', `${number(q.basePerplexity, 4)} → ${number(q.quantizedPerplexity, 4)}`,
                 `${percent(q.perplexityChange, 2)} change`),
             tile('Mean KL', number(q.klMean), `95 %: ${number(q.klCi95Low)} to ${number(q.klCi95High)}`),
             tile('Same first choice', percent(q.top1Agreement), 'of tokens'),
             tile(
                 'Size', kept.bpw > 0 ? `${number(kept.bpw)} bpw` : '–',
                 kept.artifactBytes ? bytes(kept.artifactBytes) : '')) :
                                        null,
      job.artifact ?
          el('p', {},
             el('a', {class: 'button primary', href: `#/artifacts?show=${encodeURIComponent(idOf(job.artifact))}`},
                'Open the report')) :
          null);
}

export function tile(name, value, note) {
  return el(
      'div', {class: 'tile'}, el('div', {class: 'tile-name'}, name), el('div', {class: 'tile-value'}, value),
      el('div', {class: 'tile-note'}, note));
}

function candidateTable(job) {
  return table(
      'All candidates', ['Method', 'bpw', 'Size', 'Mean KL', 'Perplexity', 'Artifact', 'Note'],
      job.candidates.map(
          (c) =>
              [`${c.method}${c.mixed ? ', mixed' : ''}`,
               number(c.bpw),
               bytes(c.artifactBytes),
               c.quality ? number(c.quality.klMean) : '–',
               c.quality ? number(c.quality.quantizedPerplexity, 4) : '–',
               c.artifact ?
                   el('a', {href: `#/artifacts?show=${encodeURIComponent(idOf(c.artifact))}`}, shortId(c.artifact)) :
                   'not kept',
               c.note ?? '',
  ]));
}

async function saveStudy(job, format, ending) {
  const answer = await get(resource(job.name, '/study'), {format: `STUDY_FORMAT_${format}`});
  saveBlob(new Blob([answer.content], {type: answer.contentType || 'text/plain'}), `${idOf(job.name)}.${ending}`);
  toast(`Saved ${idOf(job.name)}.${ending}`);
}

export async function showJob(root, {signal, parameters, setTitle}) {
  const name = `jobs/${parameters[0]}`;
  const head = el('div', {class: 'card-head'});
  const stages = el('div');
  const bar = progressBar('Progress of the job');
  const problem = el('div');
  const place = el('div');
  const actions = el('div', {class: 'actions'});
  const result = el('div');
  const facts = el('section', {'aria-label': 'Settings'});
  const curve = new Plot(signal);
  const candidates = el('section', {'aria-label': 'Candidates', hidden: true});
  const candidateRows = el('div');
  const tensors = new JobTensors(signal);
  replace(candidates, el('h2', {}, 'Candidates'), curve.node, candidateRows);
  replace(
      root, el('p', {}, el('a', {href: '#/jobs'}, '← All jobs')), head, stages, bar.node, problem, place, actions,
      result, candidates, tensors.node, facts);

  let job = null;
  let shownState = '';
  let factsDue = '';

  const drawCandidates = () => {
    const list = job.candidates ?? [];
    candidates.hidden = list.length === 0;
    if (list.length === 0) return;
    curve.set(rateCurve(list));
    replace(
        candidateRows, candidateTable(job),
        el('div', {class: 'actions'},
           [['JSON', 'json'], ['CSV', 'csv'], ['HTML', 'html']].map(
               ([format, ending]) =>
                   el('button', {
                     type: 'button',
                     onclick: (event) => withBusy(event.currentTarget, place, () => saveStudy(job, format, ending))
                   },
                      `Save as ${format}`))));
  };

  const show = (now, fresh) => {
    const seen = job?.candidates?.length ?? -1;
    job = now;
    setTitle(jobTitle(job));
    const {fraction, words} = progressOf(job);
    bar.set(fraction, words, isFinal(job));
    replace(stages, stageList(job));
    if (fresh) tensors.clear();
    if (fresh || job.tensors?.length) tensors.add(job.tensors ?? []);
    if ((job.candidates?.length ?? 0) !== seen) drawCandidates();
    if (job.state !== shownState) {
      if (shownState) announce(`The job is ${enumWord(job.state, 'JOB_STATE_')}`);
      shownState = job.state;
      replace(head, stateBadge(job.state));
      replace(problem, errorOfJob(job));
      replace(actions, jobActions(job, place, changed));
      replace(result, resultOf(job));
      drawCandidates();
      factsDue = '';
    }
    const key = JSON.stringify([job.progress?.weightsDone, job.state, job.startTime]);
    if (key !== factsDue) {
      factsDue = key;
      replace(facts, el('h2', {}, 'Settings'), factsOf(job));
    }
  };

  // Cancelled: the stream brings it. Retried: a stream that has ended begins again. Deleted: nothing is left to show.
  const changed = (now) => {
    if (now === null) {
      location.hash = '#/jobs';
    } else if (!isFinal(now)) {
      follow();
    }
  };

  let stop = new AbortController();
  async function follow() {
    stop.abort();
    stop = new AbortController();
    const mine = stop;
    try {
      await watchJob(name, (now, fresh) => {
        if (!mine.signal.aborted) show(now, fresh);
      }, mine.signal);
    } catch (error) {
      if (error.name !== 'AbortError' && !signal.aborted)
        replace(place, errorBox(error, {title: 'The job cannot be followed', retry: follow}));
    }
  }
  signal.addEventListener('abort', () => stop.abort(), {once: true});
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState === 'hidden')
      stop.abort();
    else if (job === null || !isFinal(job))
      follow();
  }, {signal});
  await follow();
}
