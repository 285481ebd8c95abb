"""Scripts that look at a page and tell what is wrong with it: lists of words, empty if nothing is."""

# Text whose contrast with what is behind it is below 4.5 (3 for large text), as WCAG 2 counts it.
CONTRAST = """
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const parse = (color) => {
      canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => [r / 255, g / 255, b / 255]
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (node) => {
      for (let n = node; n; n = n.parentElement) {
        const color = parse(getComputedStyle(n).backgroundColor);
        if (color[3] === 255) return color;
      }
      return [255, 255, 255];
    };
    const bad = [];
    for (const node of document.querySelectorAll('body *')) {
      if (![...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim())) continue;
      if (!node.checkVisibility?.() || node.closest('.visually-hidden, [disabled], noscript, .skip')) continue;
      const style = getComputedStyle(node);
      const svg = node instanceof SVGElement;
      const [a, b] = [luminance(parse(svg ? style.fill : style.color)), luminance(behind(node))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.6 && style.fontWeight >= 700);
      if (ratio >= (large ? 3 : 4.5)) continue;
      bad.push(`${node.tagName}.${node.getAttribute('class')} "${node.textContent.slice(0, 40)}" ${ratio.toFixed(2)}`);
    }
    return bad;
"""

# What a reader of the page by ear would miss: controls without a name, images without a text, ids that are there twice.
UNNAMED = """
    const named = (n) => document.getElementById(n.getAttribute('aria-labelledby') ?? '')?.textContent;
    const name = (n) => n.getAttribute('aria-label') || named(n)
      || [...(n.labels ?? [])].map((l) => l.textContent).join('') || n.textContent.trim() || n.title;
    const controls = ['button', 'a', 'input', 'select', 'textarea',
      ...['progressbar', 'meter', 'img', 'listbox', 'option', 'log'].map((role) => `[role=${role}]`)];
    const bad = [...document.querySelectorAll(controls.join())]
      .filter((n) => !name(n)).map((n) => `no name: ${n.outerHTML.slice(0, 120)}`);
    const ids = [...document.querySelectorAll('[id]')].map((n) => n.id);
    bad.push(...ids.filter((id, i) => ids.indexOf(id) !== i).map((id) => `twice: ${id}`));
    for (const n of document.querySelectorAll('[for], [aria-describedby], [aria-labelledby]')) {
      for (const attribute of ['for', 'aria-describedby', 'aria-labelledby']) {
        const id = n.getAttribute(attribute);
        if (id && !document.getElementById(id)) bad.push(`${attribute} of nothing: ${id}`);
      }
    }
    if (document.querySelectorAll('h1').length !== 1) bad.push('not one h1');
    bad.push(...[...document.querySelectorAll('img:not([alt])')].map(() => 'an image without alt'));
    return bad;
"""

# Every plot that has something to show is drawn.
PLOTS_DRAWN = """
    return [...document.querySelectorAll('figure.plot')].every((f) => f.hidden || f.querySelector('.plot-host svg'));
"""

# Buttons that a finger would miss.
SMALL_BUTTONS = """
    return [...document.querySelectorAll('main button:not(.small, .link), main select, main .button')]
      .filter((n) => n.offsetParent && n.offsetHeight < 32).map((n) => n.textContent);
"""
