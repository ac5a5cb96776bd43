// The context as tokens with heat. Only blocks of tokens near the screen have nodes, so that a
// context of 100,000 tokens is as quick as one of a thousand.
import { el } from './dom.js';

const kBlock = 400; // tokens, or fewer up to the end of a sentence
export const kSteps = 9; // heats there are colours for (dsa.css)

// What a reader sees of a token: spaces and line breaks that stand alone are made visible.
export function visible(piece) {
  if (piece === '') return '';
  if (piece.trim() === '') return piece.replaceAll('\n', '↵').replaceAll('\t', '⇥').replaceAll(' ', '·');
  return piece.replaceAll('\n', '↵');
}

// Where blocks begin: after a line break, or else a sentence, where there is one, because a block
// begins a line of its own.
function block_starts(tokens) {
  const starts = [];
  for (let first = 0; first < tokens.length; ) {
    starts.push(first);
    let next = Math.min(tokens.length, first + kBlock);
    for (const mark of next < tokens.length ? ['\n', '.'] : []) {
      let end = next;
      while (end > first + kBlock / 2 && !tokens[end - 1].includes(mark)) --end;
      if (end > first + kBlock / 2) {
        next = end;
        break;
      }
    }
    first = next;
  }
  return starts;
}

export class HeatText {
  // `hover(position or null, event)`; `shown(first, last)`: positions on the screen have changed.
  constructor({ hover, shown }) {
    this.root = el('div.heat-text', {
      tabIndex: 0, role: 'region', 'aria-label': 'Context, by how much it was selected',
    });
    this.blocks = []; // {node, first, end, near: has nodes for its tokens}
    this.tokens = [];
    this.heat = new Uint8Array(0);
    this.root.onpointerover = (event) => {
      const node = event.target.closest?.('[data-p]');
      hover(node ? Number(node.dataset.p) : null, event);
    };
    this.root.onpointerleave = (event) => hover(null, event);
    this.report = shown;
    this.root.onscroll = () => this.#report_soon();
    this.observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        this.#toggle(this.blocks[entry.target.dataset.block], entry.isIntersecting);
      }
      this.#report_soon();
    }, { root: this.root, rootMargin: '100% 0px' });
  }

  // New text: all the positions there are. Blocks get the height they may be expected to have.
  set_tokens(tokens) {
    this.observer.disconnect();
    this.tokens = tokens;
    this.heat = new Uint8Array(tokens.length);
    const starts = block_starts(tokens);
    this.blocks = starts.map((first, i) => {
      const node = el('div.block');
      node.dataset.block = i;
      const end = starts[i + 1] ?? tokens.length;
      const letters = tokens.slice(first, end).reduce((n, t) => n + t.length, 0);
      node.style.minHeight = `${Math.ceil(letters / 80) * 1.75}em`;
      return { node, first, end, near: false };
    });
    this.root.replaceChildren(...this.blocks.map((block) => block.node));
    for (const block of this.blocks) this.observer.observe(block.node);
  }

  // Heat of the first positions (0 to kSteps - 1); positions past it are not context: hidden.
  set_heat(heat) {
    this.heat = heat;
    for (const block of this.blocks) {
      block.node.hidden = block.first >= heat.length;
      if (block.near) this.#paint(block);
    }
  }

  #toggle(block, near) {
    if (block.near === near) return;
    block.near = near;
    if (near) {
      block.node.replaceChildren(...this.tokens.slice(block.first, block.end).map((piece, i) => {
        const node = el('span', {}, piece);
        node.dataset.p = block.first + i;
        return node;
      }));
      block.node.style.minHeight = '';
      this.#paint(block);
    } else {
      block.node.style.minHeight = `${block.node.offsetHeight}px`;
      block.node.replaceChildren();
    }
  }

  #paint(block) {
    let position = block.first;
    for (const node of block.node.childNodes) {
      node.hidden = position >= this.heat.length;
      node.className = `h${this.heat[position] ?? 0}`;
      ++position;
    }
  }

  #report_soon() {
    this.reporting ??= requestAnimationFrame(() => {
      this.reporting = null;
      const box = this.root.getBoundingClientRect();
      let first = null;
      let last = null;
      for (const block of this.blocks) {
        if (!block.near) continue;
        const { top, bottom, height } = block.node.getBoundingClientRect();
        if (bottom < box.top || top > box.bottom || height === 0) continue;
        const at = (y) => block.first +
          Math.max(0, Math.min(1, (y - top) / height)) * (block.end - block.first);
        first ??= at(box.top);
        last = at(box.bottom);
      }
      if (first !== null) this.report(first, last);
    });
  }

  // Brings a position to the middle of the screen.
  show(position) {
    const block = this.blocks.findLast(({ first }) => first <= position);
    if (!block) return;
    this.#toggle(block, true);
    const node = block.node.childNodes[position - block.first];
    this.root.scrollTop += node.getBoundingClientRect().top -
      this.root.getBoundingClientRect().top - this.root.clientHeight / 2;
  }
}
