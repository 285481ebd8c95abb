// The process that answers: what it is, what it runs on, how busy it is.

import {get, send} from './api.js';
import {el, replace} from './dom.js';
import {bytes, count, seconds, secondsBetween, time} from './format.js';
import {drawInstances, listInstances} from './instances.js';
import {tile} from './job.js';
import {badge, definitions, errorBox, meter, whileVisible} from './ui.js';

const REFRESH_MS = 5000;
const PROBES = [['/livez', 'Alive'], ['/startupz', 'Started'], ['/readyz', 'Ready']];

// A probe answers 503 with the reason why not.
async function probe([path, words], signal) {
  try {
    await send('GET', path, {signal});
    return [words, badge('yes', 'good'), ''];
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    return [
      words, badge(error.http === 404 ? 'not on this port' : 'no', error.http === 404 ? 'muted' : 'bad'),
      error.http === 404 ? '' : error.message
    ];
  }
}

function draw(system) {
  const diskUsed = Number(system.diskSizeBytes) - Number(system.diskFreeBytes);
  return [
    system.draining ? el('p', {class: 'notice'}, 'The server is shutting down: new requests are refused.') : null,
    el('div', {class: 'tiles'}, tile('Jobs', `${system.jobsRunning} running`, `${system.jobsQueued} queued`),
       tile('Models', `${system.modelsReady} ready`, ''),
       tile('Requests', `${system.requestsRunning} running`, `${system.requestsWaiting} waiting`),
       tile('Up for', seconds(secondsBetween(system.startTime, Date.now())), `since ${time(system.startTime)}`)),
    el('h2', {}, 'Memory and disk'),
    meter(
        'Served models', Number(system.memoryUsedBytes), Number(system.memoryLimitBytes),
        `${bytes(system.memoryUsedBytes)} of ${bytes(system.memoryLimitBytes)}`),
    meter(
        'Disk of the data', diskUsed, Number(system.diskSizeBytes),
        `${bytes(system.diskFreeBytes)} free of ${bytes(system.diskSizeBytes)}`),
    el('h2', {}, 'Process'),
    definitions([
      ['Version', system.version],
      ['Codec', system.codecVersion],
      ['Roles', (system.roles ?? []).join(', ')],
      ['Kernels', system.kernels],
      ['Models run on', system.device],
      ['Quantizes on', system.quantizeDevice],
      ['Threads', count(system.threads)],
      ['Resident memory', bytes(system.processMemoryBytes)],
      ['API keys', system.keysRequired ? 'required' : 'none: everyone who reaches the server may do everything'],
    ]),
  ];
}

export async function showSystem(root, {signal}) {
  const probes = el('div', {class: 'probes'});
  const trouble = el('div');
  const host = el('div');
  replace(
      root, probes, trouble, host,
      el('p', {class: 'links'}, el('a', {href: '/docs'}, 'API reference'), ' · ',
         el('a', {href: '/openapi.json'}, 'OpenAPI document'), ' · ', el('a', {href: '/metrics'}, 'Metrics')));
  await whileVisible(REFRESH_MS, signal, async () => {
    try {
      const [system, ...results] =
          await Promise.all([get('/v1/system', {}, signal), ...PROBES.map((p) => probe(p, signal))]);
      replace(
          probes,
          results.map(([words, mark, why]) => el('span', {class: 'probe'}, `${words} `, mark, why ? ` ${why}` : null)));
      replace(host, draw(system), drawInstances(await listInstances(system, signal)));
      replace(trouble);
    } catch (error) {
      if (error.name !== 'AbortError') replace(trouble, errorBox(error, {title: 'The system cannot be read'}));
    }
  });
}
