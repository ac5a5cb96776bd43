// Building the page out of nodes. Text only ever becomes text nodes: nothing here, or anywhere in
// the page, parses markup.

// el('a.link', {href, onclick}, 'text', node): a tag with classes, properties, and children.
// Properties with a dash (aria-label) are set as attributes; null children are left out.
export function el(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split('.');
  const node = document.createElement(name || 'div');
  if (classes.length) node.className = classes.join(' ');
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (key.includes('-') || key === 'role' || key === 'for') node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export const $ = (id) => document.getElementById(id);

// A button that says for two seconds that it has copied.
export function copy_button(text_of) {
  const button = el('button.quiet', { type: 'button', title: 'Copy' }, 'Copy');
  button.onclick = async () => {
    const done = await copy(text_of());
    button.textContent = done ? 'Copied' : 'Not copied';
    setTimeout(() => (button.textContent = 'Copy'), 2000);
  };
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard API outside https and localhost: the old way.
    const area = el('textarea.offscreen', { value: text, 'aria-hidden': 'true' });
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}

let said = null;
// For screen readers, sparingly: that an answer begins, that it is there, that something failed.
export function say(text) {
  if (text === said) text += '\u00a0'; // the same words again are news too
  said = text;
  $('status').textContent = text;
}

export function download(name, text, type = 'application/json') {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// Slow models are told apart by what is behind the point.
export const format_rate = (n) => (n < 10 ? n.toFixed(n < 1 ? 2 : 1) : format_count(n));

export const format_count = (n) => Math.round(n).toLocaleString('en-US');

export function format_seconds(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60000)} min ${Math.round((ms % 60000) / 1000)} s`;
}
