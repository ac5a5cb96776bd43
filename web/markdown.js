// Markdown to DOM nodes: headings, lists, tables, quotes, code, paragraphs. See markdown_inline.js
// for what is inside a line. There is no way from a model's text to markup.
import { copy_button, el } from './dom.js';
import { inline } from './markdown_inline.js';

const kMaxDepth = 12; // of lists and quotes in each other; deeper ones are plain text

const kFence = /^( {0,3})(`{3,}|~{3,})([^`]*)$/;
const kHeading = /^ {0,3}(#{1,6})(?:[ \t](.*))?$/;
const kRule = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const kQuote = /^ {0,3}> ?/;
const kItem = /^( {0,3})([-*+]|\d{1,9}[.)])(\s+|$)/;
const kTableRule = /^\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?$/; // of a trimmed line

// Cuts `text` into blocks: {kind, source, ...}. `source` is the block's own text, by which a
// renderer knows that it has not changed.
export function blocks_of(text) {
  const lines = text.replace(/\r\n?/g, '\n').split('\n');
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (lines[at].trim() === '') {
      ++at;
      continue;
    }
    const start = at;
    const block = take_block(lines, at);
    at = block.end;
    block.source = lines.slice(start, at).join('\n');
    blocks.push(block);
  }
  return blocks;
}

function take_block(lines, at) {
  const line = lines[at];
  const fence = kFence.exec(line);
  if (fence) return take_fence(lines, at, fence);
  const heading = kHeading.exec(line);
  if (heading) {
    const text = (heading[2] ?? '').trim();
    const bare = text.split(' ').at(-1).replaceAll('#', '') === '' ? text.lastIndexOf(' ') : null;
    const title = bare === null ? text : text.slice(0, Math.max(0, bare)).trimEnd();
    return { kind: 'heading', level: heading[1].length, text: title, end: at + 1 };
  }
  if (kRule.test(line)) return { kind: 'rule', end: at + 1 };
  if (kQuote.test(line)) return take_quote(lines, at);
  if (kItem.test(line)) return take_list(lines, at);
  if (is_table(lines, at)) return take_table(lines, at);
  return take_paragraph(lines, at);
}

const is_table = (lines, at) =>
  lines[at].includes('|') &&
  at + 1 < lines.length &&
  lines[at + 1].includes('-') &&
  kTableRule.test(lines[at + 1].trim()) &&
  cells_of(lines[at]).length === cells_of(lines[at + 1]).length;

function take_fence(lines, at, [, indent, ticks, info]) {
  const body = [];
  let end = at + 1;
  for (; end < lines.length; ++end) {
    const close = /^ {0,3}(`{3,}|~{3,})\s*$/.exec(lines[end]);
    if (close && close[1][0] === ticks[0] && close[1].length >= ticks.length) break;
    let skip = 0;
    while (skip < indent.length && lines[end][skip] === ' ') ++skip;
    body.push(lines[end].slice(skip));
  }
  // Without its end (it is still being written) the rest of the text is code.
  return { kind: 'code', info: info.trim(), text: body.join('\n'), end: Math.min(end + 1, lines.length) };
}

function take_quote(lines, at) {
  const body = [];
  let end = at;
  for (; end < lines.length && kQuote.test(lines[end]); ++end) body.push(lines[end].replace(kQuote, ''));
  return { kind: 'quote', text: body.join('\n'), end };
}

const marker_kind = (mark) => (/\d/.test(mark) ? mark.at(-1) : mark);

// Items of one marker; what is indented below an item belongs to it.
function take_list(lines, at) {
  const first = kItem.exec(lines[at]);
  const kind = marker_kind(first[2]);
  const items = [];
  let end = at;
  let body = null;
  let width = 0;
  for (; end < lines.length; ++end) {
    const line = lines[end];
    const indent = /^ */.exec(line)[0].length;
    const item = kItem.exec(line);
    if (line.trim() === '') {
      // A blank line ends the list unless it goes on below.
      const next = lines.slice(end + 1, end + 3).find((l) => l.trim() !== '');
      const same = next !== undefined && kItem.exec(next);
      if (next === undefined) break;
      if (/^ */.exec(next)[0].length < width && !(same && marker_kind(same[2]) === kind)) break;
      body.push('');
    } else if (body !== null && indent >= width) {
      body.push(line.slice(width));
    } else if (item && body !== null && indent >= first[1].length + 2) {
      body.push(line.slice(indent)); // a list below "1." that is indented by two, as models do
    } else if (item && !kRule.test(line)) {
      if (marker_kind(item[2]) !== kind) break;
      const space = item[3].length > 4 || item[3] === '' ? 1 : item[3].length;
      width = Math.max(2, item[1].length + item[2].length + space);
      body = [line.slice(item[1].length + item[2].length + space)];
      items.push(body);
    } else if (lines[end - 1].trim() === '' || starts_block(lines, end)) {
      break;
    } else {
      body.push(line.trimStart()); // a paragraph of the item that goes on unindented
    }
  }
  const ordered = /\d/.test(first[2]);
  return {
    kind: 'list',
    ordered,
    start: ordered ? parseInt(first[2], 10) : 1,
    items: items.map((item) => item.join('\n').trimEnd()),
    end,
  };
}

function cells_of(line) {
  let text = line.trim();
  if (text.startsWith('|')) text = text.slice(1);
  if (text.endsWith('|') && !text.endsWith('\\|')) text = text.slice(0, -1);
  return text.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|'));
}

function take_table(lines, at) {
  const head = cells_of(lines[at]);
  const align = cells_of(lines[at + 1]).map((cell) =>
    cell.endsWith(':') ? (cell.startsWith(':') ? 'center' : 'right') : 'left',
  );
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].includes('|') && lines[end].trim() !== ''; ++end) {
    const cells = cells_of(lines[end]).slice(0, head.length);
    while (cells.length < head.length) cells.push('');
    rows.push(cells);
  }
  return { kind: 'table', head, align, rows, end };
}

function starts_block(lines, at) {
  const line = lines[at];
  return (
    kFence.test(line) || kHeading.test(line) || kRule.test(line) || kQuote.test(line) ||
    is_table(lines, at) ||
    // As in CommonMark, "1986. What a year" inside a paragraph is no list.
    (kItem.test(line) && /^ {0,3}([-*+]|1[.)])\s+\S/.test(line))
  );
}

function take_paragraph(lines, at) {
  const body = [lines[at].trim()];
  let end = at + 1;
  for (; end < lines.length && lines[end].trim() !== '' && !starts_block(lines, end); ++end) {
    body.push(lines[end].trim());
  }
  return { kind: 'paragraph', text: body.join('\n'), end };
}

function code_block(block) {
  const language = block.info.split(/\s/)[0];
  return el(
    'div.code',
    {},
    el('div.code-head', {}, el('span', {}, language || 'text'), copy_button(() => block.text)),
    el('pre', { tabIndex: 0 }, el('code', {}, block.text)),
  );
}

function table(block) {
  const row = (cells, tag) =>
    el('tr', {}, cells.map((cell, i) => el(`${tag}.${block.align[i]}`, {}, inline(cell))));
  return el(
    'div.table',
    { tabIndex: 0 },
    el('table', {}, el('thead', {}, row(block.head, 'th')),
      el('tbody', {}, block.rows.map((cells) => row(cells, 'td')))),
  );
}

// An item that is one paragraph is shown without the paragraph's margins.
function list_item(text, depth) {
  const inner = blocks_of(text);
  return el('li', {}, inner.flatMap((block, i) =>
    block.kind === 'paragraph' && i === 0 ? inline(block.text) : [node_of(block, depth + 1)]));
}

function node_of(block, depth) {
  if (depth > kMaxDepth) return el('p', {}, block.source);
  switch (block.kind) {
    case 'heading':
      // The page has its own first headings.
      return el(`h${Math.min(6, block.level + 2)}`, {}, inline(block.text));
    case 'rule':
      return el('hr');
    case 'code':
      return code_block(block);
    case 'quote':
      return el('blockquote', {}, blocks_of(block.text).map((inner) => node_of(inner, depth + 1)));
    case 'list': {
      const node = el(block.ordered ? 'ol' : 'ul', {}, block.items.map((t) => list_item(t, depth)));
      if (block.ordered && block.start !== 1) node.start = block.start;
      return node;
    }
    case 'table':
      return table(block);
    default:
      return el('p', {}, inline(block.text));
  }
}

// Shows a growing text in `root`: blocks that have not changed keep their nodes, so that what is
// selected or focused in them stays so.
export class MarkdownView {
  #sources = [];
  #text = '';

  constructor(root) {
    this.root = root;
  }

  update(text) {
    if (text === this.#text) return;
    this.#text = text;
    const blocks = blocks_of(text);
    let same = 0;
    while (same < blocks.length && this.#sources[same] === blocks[same].source) ++same;
    while (this.root.childNodes.length > same) this.root.lastChild.remove();
    for (const block of blocks.slice(same)) this.root.append(node_of(block, 0));
    this.#sources = blocks.map((block) => block.source);
  }
}
