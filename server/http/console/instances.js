// The instances of a fleet and the replicas that each has. A process that is alone has none to show.

import {get} from './api.js';
import {el} from './dom.js';
import {count, idOf, secondsBetween} from './format.js';
import {badge, table} from './ui.js';

const REPLICA_KINDS = {
  LOADING: 'busy',
  READY: 'good',
  DRAINING: 'busy',
  FAILED: 'bad'
};
const SILENT_SECONDS = 6;  // three signs of life were missed

function stateOf(instance) {
  if (instance.draining) return badge('draining', 'busy');
  const silent = secondsBetween(instance.seenTime, Date.now());
  return silent > SILENT_SECONDS ? badge(`silent for ${Math.round(silent)} s`, 'bad') : badge('running', 'good');
}

function replicaOf(replica) {
  const requests = replica.running + replica.waiting;
  return el(
      'div', {title: replica.error || null}, `${idOf(replica.model)} `,
      badge(replica.state.toLowerCase(), REPLICA_KINDS[replica.state] ?? ''),
      requests > 0 ? ` ${count(requests)} requests` : null);
}

// Null where `system` tells of one process, or the key may not see the others.
export async function listInstances(system, signal) {
  if ((system.instances ?? 1) < 2) return null;
  try {
    return (await get('/v1/admin/instances', {}, signal)).instances ?? [];
  } catch (error) {
    if (error.http === 403) return null;
    throw error;
  }
}

export function drawInstances(instances) {
  if (!instances) return null;
  return [
    el('h2', {}, 'Instances'),
    table(
        'Instances', ['Instance', 'Machine', 'Roles', 'Pools', 'Tasks', 'Models', 'State'],
        instances.map(
            (instance) =>
                [idOf(instance.name).slice(0, 8),
                 instance.host,
                 (instance.roles ?? []).join(', '),
                 (instance.pools ?? []).join(', '),
                 count(instance.tasks),
                 el('div', {}, (instance.replicas ?? []).map(replicaOf)),
                 stateOf(instance),
  ])),
  ];
}
