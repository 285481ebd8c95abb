// Files out of the server onto the reader's disk.

import {apiKey, resource, send} from './api.js';
import {el} from './dom.js';
import {bytes} from './format.js';
import {openDialog} from './ui.js';

// What a page may hold in memory on its way to the disk.
const MAX_HELD_BYTES = 1 << 30;

export function saveBlob(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = el('a', {href: address, download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

const pathOf = (artifact, file) => `${resource(artifact, '/files/')}${encodeURIComponent(file.name)}`;

// A link cannot carry a key. With one, the file goes straight to the disk where the browser can do that, through memory
// if it is small, and else the command line has to fetch it.
async function downloadWithKey(artifact, file) {
  const path = pathOf(artifact, file);
  if ('showSaveFilePicker' in window) {
    let target;
    try {
      target = await window.showSaveFilePicker({suggestedName: file.name});
    } catch {
      return;  // the reader thought better of it
    }
    const answer = await send('GET', path);
    await answer.body.pipeTo(await target.createWritable());
    return;
  }
  if (Number(file.sizeBytes) <= MAX_HELD_BYTES) {
    saveBlob(await (await send('GET', path)).blob(), file.name);
    return;
  }
  await openDialog(
      'Too large for this browser',
      () =>
          el('div', {},
             el('p', {}, `${file.name} has ${bytes(file.sizeBytes)}, more than this browser can hold. Fetch it with:`),
             el('textarea', {
               readonly: true,
               rows: 3,
               value: `curl -C - -O -H "Authorization: Bearer $QAMSERVE_API_KEY" "${location.origin}${path}"`
             })));
}

export function downloadLink(artifact, file, onError) {
  const words = `${file.name} (${bytes(file.sizeBytes)})`;
  if (!apiKey()) return el('a', {href: pathOf(artifact, file), download: file.name}, words);
  return el(
      'button', {type: 'button', class: 'link', onclick: () => downloadWithKey(artifact, file).catch(onError)}, words);
}
