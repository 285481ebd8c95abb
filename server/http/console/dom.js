// Elements out of plain values. Text becomes text nodes, never markup: what models, users and errors say cannot become
// part of the page. There is no other way from data to the document in this console.

const PROPERTIES = new Set(['value', 'checked', 'disabled', 'selected', 'open', 'hidden', 'multiple', 'indeterminate']);

function append(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child))
      append(node, child);
    else
      node.append(child instanceof Node ? child : String(child));
  }
}

function setAttributes(node, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith('on') && typeof value === 'function')
      node.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name))
      node[name] = value;
    else if (value === true)
      node.setAttribute(name, '');
    else if (value !== false)
      node.setAttribute(name, String(value));
  }
}

// el('button', {class: 'primary', onclick: f}, 'Text', child, [more]). Null and false are left out.
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  // A select has its value once its options are there.
  const {value, ...others} = props;
  setAttributes(node, others);
  append(node, children);
  if (value !== undefined && value !== null) node.value = value;
  return node;
}

export function svg(tag, props = {}, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  setAttributes(node, props);
  append(node, children);
  return node;
}

export function replace(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Keeps the children of `container` in step with `items` without touching those that stay: focus, selection and scroll
// survive a refresh. make(item) returns {node, update(item)}.
export class KeyedList {
  constructor(container, keyOf, make) {
    this.container = container;
    this.keyOf = keyOf;
    this.make = make;
    this.rows = new Map();
  }

  set(items) {
    const wanted = new Set(items.map(this.keyOf));
    for (const [key, row] of this.rows) {
      if (wanted.has(key)) continue;
      row.node.remove();
      this.rows.delete(key);
    }
    let place = this.container.firstChild;
    for (const item of items) {
      const key = this.keyOf(item);
      if (!this.rows.has(key)) this.rows.set(key, this.make(item));
      const row = this.rows.get(key);
      row.update?.(item);
      if (row.node === place)
        place = place.nextSibling;
      else
        this.container.insertBefore(row.node, place);
    }
  }

  get(key) {
    return this.rows.get(key);
  }
}
