// The REST API: one function for calls, one for streams. Errors are ApiError with the server's reason and message.

const KEY_SLOT = 'qamserve.key';
let unauthorized = () => {};

export class ApiError extends Error {
  constructor(message, {http = 0, code = 0, status = '', reason = '', retryAfter = 0} = {}) {
    super(message);
    this.name = 'ApiError';
    this.http = http;  // 0: no answer came
    this.code = code;
    this.status = status;
    this.reason = reason || status;
    this.retryAfter = retryAfter;  // seconds; 0 = not said
  }
}

// The key stays in this tab and is gone when the tab is closed.
export function apiKey() {
  try {
    return sessionStorage.getItem(KEY_SLOT) ?? '';
  } catch {
    return '';
  }
}

export function setApiKey(key) {
  if (key)
    sessionStorage.setItem(KEY_SLOT, key);
  else
    sessionStorage.removeItem(KEY_SLOT);
}

// Called when the server wants a key, or another one.
export function onUnauthorized(handler) {
  unauthorized = handler;
}

export function url(path, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== '') parameters.append(name, String(value));
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}

// A resource name ("jobs/ab12") as a path; what is in it cannot leave its segment.
export function resource(name, suffix = '') {
  return `/v1/${String(name).split('/').map(encodeURIComponent).join('/')}${suffix}`;
}

function errorOf(body, http, headers) {
  let parsed = null;
  try {
    parsed = JSON.parse(body);
  } catch {
    // Not ours: a proxy's page, or nothing.
  }
  const error = parsed?.error;
  if (typeof error !== 'object' || error === null) {
    return new ApiError(body.trim().slice(0, 300) || `the server answered ${http}`, {http});
  }
  const details = Array.isArray(error.details) ? error.details : [];
  const delay = details.map((d) => parseFloat(d?.retryDelay)).find((seconds) => seconds > 0);
  return new ApiError(String(error.message ?? ''), {
    http,
    code: error.code,
    status: String(error.status ?? ''),
    reason: String(details.find((d) => d?.reason)?.reason ?? ''),
    retryAfter: Number(headers?.get('retry-after')) || delay || 0,
  });
}

// Answers like fetch, but throws for anything that is not a success.
export async function send(method, path, {query, body, headers = {}, signal} = {}) {
  const key = apiKey();
  const all = {...headers};
  if (key) all.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(url(path, query), {method, body, headers: all, signal, cache: 'no-store'});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError('The server does not answer. Is it running, and can this machine reach it?', {
      reason: 'NO_ANSWER',
    });
  }
  if (answer.ok) return answer;
  const error = errorOf(await answer.text(), answer.status, answer.headers);
  if (answer.status === 401) unauthorized(error);
  throw error;
}

export async function call(method, path, {query, body, signal} = {}) {
  const hasBody = method === 'POST' || method === 'PUT' || method === 'PATCH';
  const headers = {Accept: 'application/json'};
  if (hasBody) headers['Content-Type'] = 'application/json';
  const answer = await send(method, path, {
    query,
    headers,
    signal,
    body: hasBody ? JSON.stringify(body ?? {}) : undefined,
  });
  const text = await answer.text();
  return text ? JSON.parse(text) : {};
}

export const get = (path, query, signal) => call('GET', path, {query, signal});
export const post = (path, body, signal) => call('POST', path, {body, signal});

// All pages of a list, up to `limit` entries. `field` is where the answer has them.
export async function listAll(path, field, {query = {}, signal, limit = 1000} = {}) {
  const all = [];
  let pageToken = '';
  do {
    const page = await get(path, {...query, pageSize: 200, pageToken}, signal);
    all.push(...(page[field] ?? []));
    pageToken = page.nextPageToken ?? '';
  } while (pageToken && all.length < limit);
  return all;
}

// Splits text/event-stream into events (WHATWG HTML, 9.2.6). Feed it pieces; it gives what is complete.
export class EventSplitter {
  constructor() {
    this.rest = '';
    this.data = [];
    this.event = '';
    this.afterReturn = false;
  }

  feed(text) {
    const events = [];
    // A line end may be cut in two.
    if (this.afterReturn && text.startsWith('\n')) text = text.slice(1);
    this.afterReturn = text.endsWith('\r');
    const lines = (this.rest + text).split(/\r\n|\n|\r/);
    this.rest = lines.pop();
    for (const line of lines) this.line(line, events);
    return events;
  }

  line(line, events) {
    if (line === '') {
      if (this.data.length > 0) events.push({event: this.event || 'message', data: this.data.join('\n')});
      this.data = [];
      this.event = '';
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return;  // a comment that keeps the connection alive
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (field === 'data')
      this.data.push(value);
    else if (field === 'event')
      this.event = value;
  }
}

// Messages of a server stream, one after the other, up to its event "end". An error in the middle of the stream is
// thrown like any other, and so is an end that was not said: the connection was cut.
export async function* stream(method, path, {query, body, signal} = {}) {
  const headers = {Accept: 'text/event-stream'};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const answer = await send(method, path, {
    query,
    headers,
    signal,
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const splitter = new EventSplitter();
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) throw new ApiError('The connection was cut while the answer came.', {reason: 'CONNECTION_CUT'});
      for (const {event, data} of splitter.feed(value)) {
        if (event === 'end') return;
        if (event === 'error') throw errorOf(data, answer.status, null);
        yield JSON.parse(data);
      }
    }
  } catch (error) {
    if (error.name === 'AbortError' || error instanceof ApiError) throw error;
    throw new ApiError('The connection was cut while the answer came.', {reason: 'CONNECTION_CUT'});
  } finally {
    reader.cancel().catch(() => {});
  }
}

export function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(new DOMException('aborted', 'AbortError'));
    }, {once: true});
  });
}

const FINAL_STATES = new Set(['JOB_STATE_SUCCEEDED', 'JOB_STATE_REJECTED', 'JOB_STATE_FAILED', 'JOB_STATE_CANCELLED']);
export const isFinal = (job) => FINAL_STATES.has(job.state);

// Follows a job to its end over as many connections as that takes. onJob(job, fresh): `fresh` says that a connection
// begins, whose first message has all tensors again; later ones have only new ones. Returns after a final state.
export async function watchJob(name, onJob, signal) {
  let pause = 1000;
  for (;;) {
    let fresh = true;
    try {
      for await (const job of stream('GET', resource(name, ':watch'), {signal})) {
        onJob(job, fresh);
        fresh = false;
        pause = 1000;
        if (isFinal(job)) return;
      }
    } catch (error) {
      const passing = error instanceof ApiError && (error.http === 0 || error.http === 200 || error.http >= 500);
      if (!passing) throw error;
    }
    await wait(pause, signal);
    pause = Math.min(pause * 2, 15000);
  }
}
