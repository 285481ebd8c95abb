// Values as people read them. Numbers of 64 bits come as strings from the API.

export function bytes(value) {
  let number = Number(value);
  if (!Number.isFinite(number)) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (Math.abs(number) >= 1024 && unit < units.length - 1) {
    number /= 1024;
    ++unit;
  }
  return `${unit === 0 ? number : number.toFixed(number < 10 ? 2 : number < 100 ? 1 : 0)} ${units[unit]}`;
}

// Three significant digits, small and large ones as powers of ten.
export function number(value, digits = 3) {
  const x = Number(value);
  if (!Number.isFinite(x)) return '–';
  if (x === 0) return '0';
  const size = Math.abs(x);
  if (size < 1e-4 || size >= 1e7) return x.toExponential(digits - 1);
  return String(Number(x.toPrecision(Math.max(digits, Math.floor(Math.log10(size)) + 1))));
}

export function count(value) {
  const x = Number(value);
  return Number.isFinite(x) ? x.toLocaleString('en-US') : '–';
}

export function parameters(value) {
  const x = Number(value);
  if (x >= 1e9) return `${number(x / 1e9)} B`;
  if (x >= 1e6) return `${number(x / 1e6)} M`;
  return count(x);
}

export function percent(value, digits = 1) {
  const x = Number(value);
  return Number.isFinite(x) ? `${(100 * x).toFixed(digits)} %` : '–';
}

export function seconds(value) {
  const s = Number(value);
  if (!Number.isFinite(s) || s < 0) return 'not known yet';
  if (s < 1) return s === 0 ? '0 s' : 'under a second';
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
  return `${Math.round(s / 86400)} days`;
}

export function time(value) {
  if (!value) return '–';
  const date = new Date(value);
  return Number.isNaN(date.getTime()) ? '–' : date.toLocaleString();
}

export function secondsBetween(from, to) {
  return (new Date(to).getTime() - new Date(from).getTime()) / 1000;
}

// "artifacts/0123abcd..." -> "0123abcd..."; the part after the collection.
export function idOf(name) {
  return String(name ?? '').slice(String(name ?? '').indexOf('/') + 1);
}

export function shortId(name) {
  const id = idOf(name);
  return /^[0-9a-f]{20,}$/.test(id) ? id.slice(0, 10) : id;
}

// "JOB_STATE_RUNNING" with prefix "JOB_STATE_" -> "running".
export function enumWord(value, prefix) {
  const word = String(value ?? '');
  return (word.startsWith(prefix) ? word.slice(prefix.length) : word).toLowerCase().replaceAll('_', ' ');
}

export function base64Bytes(text) {
  const raw = atob(text ?? '');
  return Uint8Array.from(raw, (c) => c.charCodeAt(0));
}

// A token's bytes; those that are no whole characters as \xE2.
export function tokenText(base64) {
  const raw = base64Bytes(base64);
  try {
    return new TextDecoder('utf-8', {fatal: true}).decode(raw);
  } catch {
    return Array.from(raw, (b) => `\\x${b.toString(16).toUpperCase().padStart(2, '0')}`).join('');
  }
}

// Spaces and line ends made visible, for single tokens.
export function visible(text) {
  return text.replaceAll(' ', '␣').replaceAll('\n', '⏎').replaceAll('\t', '⇥') || '(nothing)';
}

// "joint 5.5", "ladder of 4", "KL ≤ 0.05": what a quantize job was asked for.
export function specWords(spec) {
  if (!spec) return '';
  const codec = enumWord(spec.codec, 'CODEC_');
  const words = [codec === 'unspecified' ? 'joint' : codec];
  const target = spec.target ?? {};
  if (spec.ladder?.length)
    words.push(`ladder ${spec.ladder.map((rate) => number(rate)).join(', ')} bits`);
  else if (target.kl > 0)
    words.push(`KL ≤ ${number(target.kl)}`);
  else if (target.perplexityIncrease > 0)
    words.push(`perplexity +${percent(target.perplexityIncrease)} at most`);
  else if (target.bpw > 0)
    words.push(`at most ${number(target.bpw)} bpw`);
  else if (Number(target.bytes) > 0)
    words.push(`at most ${bytes(target.bytes)}`);
  else if (spec.bpw > 0)
    words.push(`${number(spec.bpw)} bits`);
  if (spec.errorFeedback) words.push('error feedback');
  return words.join(' · ');
}
