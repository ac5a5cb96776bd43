// "What it looked at": for a token of an answer, which tokens of its context the indexer selected,
// layer by layer.
import { get_json } from './api.js';
import { $, el, format_count } from './dom.js';
import { contrast_heat, masks_of, peak_of, share_heat, steps_of } from './dsa_heat.js';
import { Strip } from './dsa_strip.js';
import { HeatText, kSteps, visible } from './dsa_text.js';

const kScanned = 64; // tokens of an answer that are looked through for the one that looked furthest
const kKept = 128; // selections kept here

const percent = (share) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
const path = (id, token) =>
  `v1/dsa/selection?request=${encodeURIComponent(id)}${token === undefined ? '' : `&token=${token}`}`;

class DsaView {
  #selections = new Map(); // token -> promise of the server's answer
  #token = -1;
  #moved = false; // the reader has chosen a token, a layer or a kind of heat, or reads the context

  constructor(id, text) {
    this.id = id;
    this.text = text;
    this.layer = null;
    this.mode = 'contrast';
    this.open = true;
    this.#build();
    this.context_text.set_tokens(text.tokens);
  }

  #build() {
    const { text } = this;
    const answer = text.tokens.slice(text.prompt_tokens, text.prompt_tokens + text.kept);
    const drafted = new Set(text.drafted);
    this.chips = answer.map((piece, i) =>
      el(drafted.has(i) ? 'button.drafted' : 'button', { type: 'button', tabIndex: -1, onclick: () => this.#choose(i),
        title: drafted.has(i) ? 'guessed ahead, and right' : '',
        'aria-label': `Token ${i + 1}${drafted.has(i) ? ', guessed ahead' : ''}: ${piece}` }, visible(piece) || '∅'));
    this.answer = el('div.answer', { role: 'toolbar', 'aria-label': 'Tokens of the answer', onkeydown: (event) => this.#walk(event) }, this.chips);
    this.summary = el('p.summary', { 'aria-live': 'polite' });
    this.tip = el('div.tip', { hidden: true, role: 'tooltip' });
    this.strip = new Strip({
      hover: (position, event) => this.#hover(position, event),
      pick: (position) => {
        this.#moved = true;
        this.context_text.show(position);
      },
    });
    this.context_text = new HeatText({
      hover: (position, event) => this.#hover(position, event),
      shown: (first, last) => this.strip.set_shown(first, last),
    });
    for (const type of ['wheel', 'pointerdown', 'keydown']) {
      this.context_text.root.addEventListener(type, () => (this.#moved = true), { passive: true });
    }
    this.rows = Array.from({ length: text.layers }, (_, i) => this.#row(i));
    this.slider_text = el('output', {}, 'all layers');
    this.slider = el('input', { type: 'range', min: 0, max: text.layers, value: 0, 'aria-label': 'Layer', oninput: () => this.#set_layer(Number(this.slider.value) - 1) });
    this.root = el('div.dsa', {},
      el('header', {},
        el('h2', { id: 'dsa-title' }, 'What it looked at'),
        el('span.muted', {}, `${text.model} · ${format_count(text.tokens.length)} tokens`),
        el('button.icon', { type: 'button', 'aria-label': 'Close', onclick: () => $('dsa').close() }, '×')),
      el('section', {},
        el('h3', {}, 'Answer', el('small', {}, 'choose a token, or walk with ← →')), this.answer, this.summary),
      el('section.middle', {},
        el('div.wide-part', {},
          el('h3', {}, 'Context by layer', el('small', {}, 'a row a layer, first token to the left')),
          this.strip.canvas),
        el('div.controls', {}, this.#modes(),
          el('label', {}, 'Layers: ', this.slider_text, this.slider))),
      el('section.bottom', {},
        this.context_text.root,
        el('div.layers', {}, el('div.layer.head', {}, el('span', {}, 'Layer'), el('span', {}, 'of the context read'), el('span', {}, 'as for the token before')), this.rows.map((row) => row.root))),
      this.tip);
  }

  #modes() {
    const button = (mode, label, title) =>
      el('button.chip', { type: 'button', title, 'aria-pressed': String(mode === this.mode), onclick: () => {
        this.#moved = true;
        this.mode = mode;
        for (const other of group.children) other.setAttribute('aria-pressed', String(other === node_of[mode]));
        this.#paint();
      } }, label);
    const node_of = {
      contrast: button('contrast', 'What stands out', 'Passages that a layer selects more than what is around them'),
      share: button('share', 'Share of layers', 'How many of the layers selected a token'),
    };
    const group = el('div.modes', { role: 'group', 'aria-label': 'Heat' }, Object.values(node_of));
    return group;
  }

  #row(layer) {
    const share = el('span.bar', {}, el('i'), el('b'));
    const overlap = el('span.bar', {}, el('i'), el('b'));
    const root = el('button.layer', { type: 'button', title: `Show layer ${layer} alone`, onclick: () => {
      this.#set_layer(this.layer === layer ? -1 : layer);
    } }, el('span', {}, String(layer)), share, overlap);
    return { root, share, overlap };
  }

  #set_layer(layer) {
    this.#moved = true;
    this.layer = layer < 0 ? null : layer;
    this.slider.value = layer + 1;
    this.slider_text.textContent = this.layer === null ? 'all layers' : `layer ${layer} alone`;
    this.#paint();
  }

  #walk(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.#choose(Math.max(0, Math.min(this.chips.length - 1, this.#token + step)));
    this.chips[this.#token].focus();
  }

  #choose(token) {
    this.#moved = true;
    return this.select(token);
  }

  #selection(token) {
    let known = this.#selections.get(token);
    if (!known) {
      known = get_json(path(this.id, token));
      this.#selections.set(token, known);
      known.catch(() => this.#selections.delete(token));
      if (this.#selections.size > kKept) this.#selections.delete(this.#selections.keys().next().value);
    }
    return known;
  }

  async select(token) {
    this.chips[this.#token]?.removeAttribute('aria-current');
    if (this.chips[this.#token]) this.chips[this.#token].tabIndex = -1;
    this.#token = token;
    const chip = this.chips[token];
    chip.setAttribute('aria-current', 'true');
    chip.tabIndex = 0;
    chip.scrollIntoView({ block: 'nearest' });
    let selection;
    try {
      selection = await this.#selection(token);
    } catch (error) {
      this.summary.textContent = error.message;
      return;
    }
    if (this.#token !== token) return; // the reader has walked on
    this.context = selection.context_tokens;
    this.masks = masks_of(selection.layers, this.context);
    this.#show_layers(selection.layers);
    this.#paint();
  }

  #show_layers(layers) {
    const bar = (node, share) => {
      node.firstChild.style.width = `${(share ?? 0) * 100}%`;
      node.lastChild.textContent = share === null ? '–' : percent(share);
    };
    layers.forEach(({ share, overlap }, i) => {
      bar(this.rows[i].share, share);
      bar(this.rows[i].overlap, overlap);
    });
    const mean = layers.reduce((sum, { share }) => sum + share, 0) / layers.length;
    const token = this.text.tokens[this.text.prompt_tokens + this.#token];
    this.summary.replaceChildren('To write ', el('code', {}, visible(token) || '∅'),
      mean > 0.999
        ? ` it read all ${format_count(this.context)} tokens in front of it: the context is shorter than what the indexer may select.`
        : ` it read ${percent(mean)} of the ${format_count(this.context)} tokens in front of it, in the mean of ${layers.length} layers.`);
  }

  #paint() {
    if (!this.masks) return;
    const masks = this.layer === null ? this.masks : [this.masks[this.layer]];
    const contrast = this.mode === 'contrast';
    const heat = (contrast ? contrast_heat : share_heat)(masks, this.context);
    this.heat = heat;
    this.context_text.set_heat(steps_of(heat, kSteps, contrast));
    this.strip.set(this.masks, this.context, this.layer);
    this.rows.forEach((row, i) => row.root.setAttribute('aria-pressed', String(this.layer === i)));
  }

  #hover(position, event) {
    this.tip.hidden = position === null || !this.masks || position >= this.context;
    if (this.tip.hidden) return;
    const layers = this.masks.flatMap((mask, i) => (mask[position] ? [i] : []));
    this.tip.textContent =
      `${format_count(position)}: ${visible(this.text.tokens[position]) || '∅'}  ` +
      (layers.length === 0 ? 'not selected' : layers.length === this.masks.length ? 'all layers'
        : `layer${layers.length > 1 ? 's' : ''} ${layers.join(', ')}`);
    const box = this.root.getBoundingClientRect();
    const room = box.width - this.tip.offsetWidth - 8;
    this.tip.style.left = `${Math.max(8, Math.min(room, event.clientX - box.left + 12))}px`;
    this.tip.style.top = `${event.clientY - box.top + 18}px`;
  }

  // Where the strongest heat is: brought into view.
  #show_hottest() {
    let best = 0;
    const end = Math.max(1, this.context - 100);
    for (let i = 4; i < end; ++i) if (this.heat[i] > this.heat[best]) best = i;
    this.context_text.show(best);
  }

  // Underlines the tokens of the answer by how far something stood out for them, and starts at the
  // one where it was most, unless the reader has chosen by then.
  async start() {
    if (this.chips.length === 0) {
      this.summary.textContent = 'Nothing was kept of this answer.';
      return;
    }
    await this.select(0);
    let best = 0;
    let top = 0;
    for (let i = 0; i < Math.min(kScanned, this.chips.length) && this.open; ++i) {
      const selection = await this.#selection(i).catch(() => null);
      if (!selection) return;
      const masks = masks_of(selection.layers, selection.context_tokens);
      const peak = peak_of(contrast_heat(masks, selection.context_tokens));
      this.chips[i].style.setProperty('--peak', peak.toFixed(2));
      if (peak > top) [best, top] = [i, peak];
    }
    if (this.#moved || !this.open) return;
    await this.select(best);
    if (this.#moved) return;
    this.#show_hottest();
    // Not away from a control that the reader has gone to.
    if ([$('dsa'), document.body].includes(document.activeElement)) this.chips[best].focus();
  }
}

export async function open_dsa(id) {
  const dialog = $('dsa');
  dialog.replaceChildren(el('p.loading', { id: 'dsa-title' }, 'Asking the server…'));
  dialog.showModal();
  let view = null;
  dialog.onclose = () => {
    if (view) view.open = false;
    dialog.replaceChildren();
  };
  try {
    const text = await get_json(path(id));
    if (!dialog.open) return;
    view = new DsaView(id, text);
    dialog.replaceChildren(view.root);
    await view.start();
  } catch (error) {
    dialog.replaceChildren(el('div.loading', {}, el('p', { id: 'dsa-title' }, error.message),
      el('button.primary', { type: 'button', onclick: () => dialog.close() }, 'Close')));
  }
}
