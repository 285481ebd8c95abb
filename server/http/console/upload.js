// Files from this browser into the server: digests first, then only the bytes that the server lacks. A transfer that
// was cut goes on where it was, also after the page was closed: choose the same files again.

import {ApiError, call, get, post, resource, send, wait} from './api.js';
import {el, replace} from './dom.js';
import {bytes} from './format.js';
import {rememberText} from './texts.js';
import {announce, errorBox, field, progressBar, toast} from './ui.js';

const PART_BYTES = 8 << 20;
// In a row, without a byte of progress.
const MAX_TRIES = 6;
// What makes up a model; the same that qamctl takes, so that both name the same checkpoint.
const SIDE_FILES = new Set([
  'config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'tokenizer.model',
  'special_tokens_map.json', 'vocab.json', 'merges.txt', 'added_tokens.json', 'chat_template.jinja',
  'chat_template.json', 'model.safetensors.index.json'
]);

const workerUrl = () => {
  const path = '/console/hash_worker.js';
  // The page's policy lets nothing else become a script.
  return window.trustedTypes ?
      window.trustedTypes.createPolicy('qamserve-worker', {createScriptURL: () => path}).createScriptURL('') :
      path;
};
let workerScript = null;

function digestOf(file, onBytes, signal) {
  workerScript ??= workerUrl();
  return new Promise((resolve, reject) => {
    const worker = new Worker(workerScript, {type: 'module'});
    const end = (settle, value) => {
      worker.terminate();
      settle(value);
    };
    signal.addEventListener('abort', () => end(reject, new DOMException('aborted', 'AbortError')), {once: true});
    worker.onerror = () => end(reject, new Error('the digest could not be computed'));
    worker.onmessage = ({data}) => {
      if (data.error)
        end(reject, new Error(data.error));
      else if (data.sha256)
        end(resolve, data.sha256);
      else
        onBytes(data.done);
    };
    worker.postMessage({file});
  });
}

async function committedBytes(upload, sha256, signal) {
  const now = await get(resource(upload), {}, signal);
  const state = now.files.find((f) => f.file.sha256 === sha256);
  return state.complete ? Number(state.file.sizeBytes) : Number(state.committedBytes);
}

// Sends one file from where the server has it. Errors that may pass are tried again from what was committed.
async function sendFile(upload, sha256, file, from, onBytes, signal) {
  let at = from;
  let tries = 0;
  do {
    try {
      const answer = await send('PUT', `${resource(upload)}/files/${sha256}`, {
        query: {offset: at},
        body: file.slice(at, at + PART_BYTES),
        headers: {'Content-Type': 'application/octet-stream'},
        signal,
      });
      const state = await answer.json();
      at = state.complete ? file.size : Number(state.committedBytes);
      tries = 0;
      onBytes(at);
    } catch (error) {
      const passing = error instanceof ApiError &&
          (error.http === 0 || error.http >= 500 || error.http === 429 ||
           ['UPLOAD_OFFSET', 'UPLOAD_BUSY'].includes(error.reason));
      if (!passing || error.reason === 'UPLOAD_DIGEST' || ++tries >= MAX_TRIES) throw error;
      await wait(Math.max(error.retryAfter * 1000, 500 * 2 ** tries), signal);
      at = await committedBytes(upload, sha256, signal).catch(() => at);
    }
  } while (at < file.size);
}

// The whole road. show(words, fraction) tells how far it is. Resolves with the answer of CompleteUpload.
async function transfer(kind, files, displayName, show, remember, signal) {
  const total = files.reduce((sum, file) => sum + file.size, 0);
  const digests = [];
  let before = 0;
  for (const file of files) {
    const base = before;
    digests.push(
        await digestOf(file, (done) => show(`digest of ${file.name}`, total ? (base + done) / total : 0), signal));
    before += file.size;
  }
  const upload = await post(
      '/v1/uploads', {
        kind,
        displayName,
        files: files.map((file, i) => ({name: file.name, sha256: digests[i], sizeBytes: String(file.size)})),
      },
      signal);
  remember(upload.name);
  let done = 0;
  for (const state of upload.files) {
    const size = Number(state.file.sizeBytes);
    const i = digests.indexOf(state.file.sha256);
    if (!state.complete) {
      const base = done;
      await sendFile(upload.name, state.file.sha256, files[i], Number(state.committedBytes), (at) => {
        show(`sending ${state.file.name}, ${bytes(base + at)} of ${bytes(total)}`, total ? (base + at) / total : 1);
      }, signal);
    }
    done += size;
  }
  show('the server checks the files', 1);
  return post(resource(upload.name, ':complete'), {}, signal);
}

function filesOf(list, kind) {
  // Of a folder only what lies in it directly: checkpoints have no folders.
  const direct = [...list].filter((file) => (file.webkitRelativePath ?? '').split('/').length <= 2);
  const isModel = direct.some((file) => file.name === 'config.json');
  const takes = (file) => kind === 'UPLOAD_KIND_TEXT' || SIDE_FILES.has(file.name) ||
      file.name.endsWith('.safetensors') || (!isModel && file.name.endsWith('.gguf'));
  return {taken: direct.filter(takes), skipped: direct.filter((file) => !takes(file))};
}

// A panel that takes files of one kind. onDone() is called when something new is there.
export function uploadPanel({kind, title, hint, signal, onDone}) {
  const isText = kind === 'UPLOAD_KIND_TEXT';
  const files = el('input', {type: 'file', multiple: !isText});
  const folder = isText ? null : el('input', {type: 'file', webkitdirectory: true});
  const name = el('input', {type: 'text', maxlength: 200});
  const start = el('button', {type: 'button', class: 'primary'}, 'Upload');
  const stop = el('button', {type: 'button', hidden: true}, 'Pause');
  const discard = el('button', {type: 'button', hidden: true}, 'Discard');
  const summary = el('p', {class: 'sub', 'aria-live': 'polite'});
  const bar = progressBar(`${title}: progress`);
  bar.node.hidden = true;
  const place = el('div');
  let chosen = {taken: [], skipped: []};
  let running = null;
  let upload = '';

  const describe = () => {
    const size = chosen.taken.reduce((sum, file) => sum + file.size, 0);
    const words = chosen.taken.length === 0 ? [] : [`${chosen.taken.map((f) => f.name).join(', ')} (${bytes(size)})`];
    if (chosen.skipped.length > 0) words.push(`left out: ${chosen.skipped.map((f) => f.name).join(', ')}`);
    replace(summary, words.join('; '));
  };
  const choose = (list) => {
    chosen = filesOf(list, kind);
    upload = '';
    discard.hidden = true;
    replace(place);
    describe();
  };
  files.addEventListener('change', () => choose(files.files));
  folder?.addEventListener('change', () => choose(folder.files));

  async function run() {
    if (running) return;
    if (chosen.taken.length === 0) {
      replace(place, errorBox(new Error('Choose files first.'), {title: 'Nothing to upload'}));
      return;
    }
    running = new AbortController();
    start.setAttribute('aria-disabled', 'true');
    stop.hidden = false;
    discard.hidden = true;
    bar.node.hidden = false;
    replace(place);
    try {
      const result = await transfer(
          kind, chosen.taken, name.value.trim(), (words, fraction) => bar.set(fraction, words), (made) => {
            upload = made;
          }, running.signal);
      if (result.text) rememberText(result.text);
      toast(isText ? 'The text is there' : 'The checkpoint is there');
      upload = '';
      bar.set(1, 'done');
      onDone(result);
    } catch (error) {
      if (error.name === 'AbortError')
        bar.set(null, 'paused; Upload goes on');
      else
        replace(place, errorBox(error, {title: 'The upload stopped'}));
      announce('The upload stopped');
    } finally {
      running = null;
      start.removeAttribute('aria-disabled');
      stop.hidden = true;
      discard.hidden = upload === '';
    }
  }
  start.addEventListener('click', run);
  stop.addEventListener('click', () => running?.abort());
  discard.addEventListener('click', async () => {
    try {
      await call('DELETE', resource(upload));
      upload = '';
      discard.hidden = true;
      bar.node.hidden = true;
      announce('The upload is discarded');
    } catch (error) {
      replace(place, errorBox(error));
    }
  });
  signal.addEventListener('abort', () => running?.abort(), {once: true});

  const node = el(
      'div', {class: 'drop'}, el('h3', {}, title), el('p', {class: 'hint'}, hint),
      el('div', {class: 'pair'}, field(isText ? 'File' : 'Files', files), folder ? field('or a folder', folder) : null),
      field('Name', name, 'For people; may stay empty'), summary, bar.node, place,
      el('div', {class: 'actions'}, start, stop, discard));
  node.addEventListener('dragover', (event) => {
    event.preventDefault();
    node.classList.add('over');
  });
  node.addEventListener('dragleave', () => node.classList.remove('over'));
  node.addEventListener('drop', (event) => {
    event.preventDefault();
    node.classList.remove('over');
    if (!running) choose(event.dataTransfer.files);
  });
  return node;
}
