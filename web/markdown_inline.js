// Markdown inside a line: code, emphasis, links. What is not understood stays as it was written;
// markup of the text's own (HTML) is text. Time is linear in the text, so that a model that writes
// ten thousand asterisks does no harm.
import { el } from './dom.js';

const kMaxLink = 2000; // characters that are searched for the end of a link

// Only what a reader may safely be sent to, as the browser understands the address.
export function safe_url(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : null;
}

function link(href, children, title) {
  return el('a', { href, title, target: '_blank', rel: 'noopener noreferrer nofollow' }, children);
}

const is_space = (c) => c === undefined || /\s/.test(c);
const is_word = (c) => c !== undefined && /[\p{L}\p{N}]/u.test(c);

// Emphasis is found with a stack: an opener waits in `open` until its closer comes.
class Inline {
  constructor(text, in_link) {
    this.text = text;
    this.at = 0;
    this.in_link = in_link;
    this.nodes = []; // finished nodes, text and openers in a row
    this.open = []; // {mark, index in nodes}
    this.words = '';
    this.no_tick = new Set(); // lengths of backtick runs that have no partner further on
  }

  flush() {
    if (this.words) this.nodes.push(this.words);
    this.words = '';
  }

  push(node) {
    this.flush();
    this.nodes.push(node);
  }

  run() {
    const { text } = this;
    while (this.at < text.length) {
      const c = text[this.at];
      const took =
        c === '\\' ? this.escape() :
        c === '`' ? this.code() :
        c === '[' || c === '!' ? this.bracket() :
        c === '<' ? this.angle() :
        c === 'h' ? this.bare_link() :
        c === '*' || c === '_' || c === '~' ? this.emphasis(c) :
        c === '\n' ? this.line_break() : false;
      if (!took) {
        this.words += c;
        this.at += 1;
      }
    }
    this.flush();
    return this.nodes;
  }

  line_break() {
    this.words = this.words.trimEnd();
    this.push(el('br'));
    this.at += 1;
    return true;
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === undefined || !/[!-/:-@[-`{-~]/.test(next)) return false;
    this.words += next;
    this.at += 2;
    return true;
  }

  code() {
    let length = 1;
    while (this.text[this.at + length] === '`') ++length;
    const start = this.at + length;
    const end = this.no_tick.has(length) ? -1 : this.#closing_ticks(start, length);
    if (end < 0) {
      this.no_tick.add(length);
      this.words += '`'.repeat(length);
      this.at = start;
      return true;
    }
    let inside = this.text.slice(start, end).replaceAll('\n', ' ');
    if (/^ .*[^ ].* $/.test(inside)) inside = inside.slice(1, -1);
    this.push(el('code', {}, inside));
    this.at = end + length;
    return true;
  }

  #closing_ticks(from, length) {
    for (let i = this.text.indexOf('`', from); i >= 0; i = this.text.indexOf('`', i)) {
      let n = 1;
      while (this.text[i + n] === '`') ++n;
      if (n === length) return i;
      i += n;
    }
    return -1;
  }

  // [text](address "title"); an image is shown as a link: nothing is loaded from elsewhere.
  bracket() {
    const image = this.text.startsWith('![', this.at);
    if (this.in_link || (this.text[this.at] === '!' && !image)) return false;
    const rest = this.text.slice(this.at + (image ? 2 : 1), this.at + kMaxLink);
    const middle = rest.indexOf('](');
    if (middle < 0 || rest.slice(0, middle).includes('[')) return false;
    const tail = /^\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+"([^"]*)")?\s*\)/.exec(
      rest.slice(middle + 2),
    );
    const href = tail && safe_url(tail[1]);
    if (!href) return false;
    const label = rest.slice(0, middle);
    this.push(link(href, label ? inline(label, true) : [tail[1]], tail[2]));
    this.at += (image ? 2 : 1) + middle + 2 + tail[0].length;
    return true;
  }

  angle() {
    const match = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/.exec(
      this.text.slice(this.at, this.at + kMaxLink),
    );
    const href = match && !this.in_link && safe_url(match[1]);
    if (!href) return false;
    this.push(link(href, [match[1]]));
    this.at += match[0].length;
    return true;
  }

  bare_link() {
    if (this.in_link || !this.text.startsWith('http', this.at)) return false;
    if (is_word(this.text[this.at - 1])) return false;
    const match = /^https?:\/\/[^\s<>"`*]+/.exec(this.text.slice(this.at, this.at + kMaxLink));
    if (!match) return false;
    let address = match[0].replace(/[.,;:!?'_]+$/, '');
    // A closing bracket belongs to the sentence unless it was opened within the address.
    while (address.endsWith(')') && address.split(')').length > address.split('(').length) {
      address = address.slice(0, -1);
    }
    const href = safe_url(address);
    if (!href) return false;
    this.push(link(href, [address]));
    this.at += address.length;
    return true;
  }

  emphasis(c) {
    let length = 1;
    while (this.text[this.at + length] === c) ++length;
    const before = this.text[this.at - 1];
    const after = this.text[this.at + length];
    const marks = { '*': ['*', '**', '***'], _: ['_', '__', '___'], '~': [null, '~~'] };
    const mark = marks[c][length - 1];
    this.at += length;
    if (!mark) {
      this.words += c.repeat(length);
      return true;
    }
    // snake_case is a word, not emphasis.
    const inside_word = c === '_' && is_word(before) && is_word(after);
    const can_close = !is_space(before) && !inside_word;
    const can_open = !is_space(after) && !inside_word;
    if (can_close && this.#close(mark)) return true;
    if (can_open) {
      this.flush();
      this.open.push({ mark, index: this.nodes.length });
      this.nodes.push(mark); // stays as text if nothing closes it
    } else {
      this.words += mark;
    }
    return true;
  }

  #close(mark) {
    for (let i = this.open.length - 1; i >= 0 && i >= this.open.length - 16; --i) {
      if (this.open[i].mark !== mark) continue;
      this.flush();
      const { index } = this.open[i];
      const inside = this.nodes.splice(index).slice(1);
      this.open.length = i; // what was opened inside and not closed is text
      if (inside.length === 0) return false;
      this.nodes.push(wrap(mark, inside));
      return true;
    }
    return false;
  }
}

function wrap(mark, nodes) {
  if (mark === '~~') return el('del', {}, nodes);
  if (mark.length === 3) return el('strong', {}, el('em', {}, nodes));
  return el(mark.length === 2 ? 'strong' : 'em', {}, nodes);
}

// Nodes and strings for the text of a paragraph, heading or cell.
export function inline(text, in_link = false) {
  return new Inline(text, in_link).run();
}
