// The server does not list texts: those that were put in with this browser are remembered here, by name only.

const SLOT = 'qamserve.texts';
const MAX_REMEMBERED = 50;

export function knownTexts() {
  try {
    const list = JSON.parse(localStorage.getItem(SLOT) ?? '[]');
    return Array.isArray(list) ? list.filter((text) => typeof text?.name === 'string') : [];
  } catch {
    return [];
  }
}

export function rememberText(text) {
  const others = knownTexts().filter((known) => known.name !== text.name);
  try {
    localStorage.setItem(
        SLOT, JSON.stringify([{name: text.name, displayName: text.displayName}, ...others].slice(0, MAX_REMEMBERED)));
  } catch {
    // It can still be named by hand.
  }
}
