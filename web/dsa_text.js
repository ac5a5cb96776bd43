// The context as tokens with heat. Only blocks of tokens near the screen have nodes, so that a
// context of 100,000 tokens is as quick as one of a thousand.
import { el } from './dom.js';

const kBlock = 400; // tokens
export const kSteps = 9; // heats there are colours for (dsa.css)

// What a reader sees of a token: spaces and line breaks that stand alone are made visible.
export function visible(piece) {
  if (piece === '') return '';
  if (piece.trim() === '') return piece.replaceAll('\n', '↵').replaceAll('\t', '⇥').replaceAll(' ', '·');
  return piece.replaceAll('\n', '↵');
}

export class HeatText {
  // `hover(position or null, event)`; `shown(first, last)`: positions on the screen have changed.
  constructor({ hover, shown }) {
    this.root = el('div.heat-text', { tabIndex: 0, role: 'region', 'aria-label': 'Context, by how much it was selected' });
    this.blocks = [];
    this.tokens = [];
    this.heat = new Uint8Array(0);
    const on = (event) => {
      const node = event.target.closest?.('[data-p]');
      hover(node ? Number(node.dataset.p) : null, event);
    };
    this.root.onpointerover = on;
    this.root.onpointerleave = (event) => hover(null, event);
    this.visible = new Set();
    this.observer = new IntersectionObserver((entries) => {
      for (const entry of entries) this.#toggle(entry.target, entry.isIntersecting);
      const near = [...this.visible].sort((a, b) => a - b);
      if (near.length) shown(near[0] * kBlock, Math.min(this.tokens.length, (near.at(-1) + 1) * kBlock));
    }, { root: this.root, rootMargin: '100% 0px' });
  }

  // New text: all the positions there are. Blocks get the height they may be expected to have.
  set_tokens(tokens) {
    this.observer.disconnect();
    this.visible.clear();
    this.tokens = tokens;
    this.heat = new Uint8Array(tokens.length);
    this.blocks = [];
    for (let first = 0; first < tokens.length; first += kBlock) {
      const block = el('div.block');
      block.dataset.block = first / kBlock;
      const letters = tokens.slice(first, first + kBlock).reduce((n, t) => n + t.length, 0);
      block.style.minHeight = `${Math.ceil(letters / 80) * 1.75}em`;
      this.blocks.push(block);
    }
    this.root.replaceChildren(...this.blocks);
    for (const block of this.blocks) this.observer.observe(block);
  }

  // Heat of the first positions (0 to kSteps - 1); positions past it are not context: hidden.
  set_heat(heat) {
    this.heat = heat;
    for (const block of this.blocks) {
      block.hidden = Number(block.dataset.block) * kBlock >= heat.length;
      if (block.childNodes.length) this.#paint(block);
    }
  }

  #toggle(block, near) {
    const number = Number(block.dataset.block);
    if (!near) {
      this.visible.delete(number);
      if (block.childNodes.length) {
        block.style.minHeight = `${block.offsetHeight}px`;
        block.replaceChildren();
      }
    } else if (!this.visible.has(number)) {
      this.visible.add(number);
      this.#fill(block);
    }
  }

  #fill(block) {
    const first = Number(block.dataset.block) * kBlock;
    block.replaceChildren(...this.tokens.slice(first, first + kBlock).flatMap((piece, i) => {
      const node = el('span', {}, piece.trim() === '' ? visible(piece) : piece);
      node.dataset.p = first + i;
      return node;
    }));
    block.style.minHeight = '';
    this.#paint(block);
  }

  #paint(block) {
    for (const node of block.childNodes) {
      const position = Number(node.dataset.p);
      node.hidden = position >= this.heat.length;
      node.className = `h${this.heat[position] ?? 0}`;
    }
  }

  // Brings a position to the middle of the screen.
  show(position) {
    const block = this.blocks[Math.floor(position / kBlock)];
    if (!block) return;
    this.#toggle(block, true);
    const node = block.childNodes[position % kBlock];
    this.root.scrollTop += node.getBoundingClientRect().top -
      this.root.getBoundingClientRect().top - this.root.clientHeight / 2;
  }
}
