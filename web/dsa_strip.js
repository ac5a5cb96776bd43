// The strip: layers down, the context from left to right, one canvas however long the context is.
import { el } from './dom.js';

const kMinRow = 4; // pixels of a layer
const kMaxRow = 16;

export class Strip {
  // `hover(position or null, event)` and `pick(position)` tell what the pointer is on.
  constructor({ hover, pick }) {
    this.canvas = el('canvas.strip', { role: 'img', 'aria-label': 'Selected positions by layer' });
    this.canvas.onpointermove = (event) => hover(this.#position(event), event);
    this.canvas.onpointerleave = (event) => hover(null, event);
    this.canvas.onclick = (event) => pick(this.#position(event));
    this.masks = [];
    this.context = 0;
    this.shown = null; // [first, last] position of the text that is on the screen
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  set(masks, context, layer) {
    this.masks = masks;
    this.context = context;
    this.layer = layer; // null: all
    this.draw();
  }

  set_shown(first, last) {
    this.shown = [first, last];
    this.draw();
  }

  #position(event) {
    const box = this.canvas.getBoundingClientRect();
    const at = Math.floor(((event.clientX - box.left) / box.width) * this.context);
    return Math.max(0, Math.min(this.context - 1, at));
  }

  draw() {
    const { canvas, masks, context } = this;
    if (!context || !canvas.clientWidth) return;
    const ratio = devicePixelRatio || 1;
    const row = Math.max(kMinRow, Math.min(kMaxRow, Math.floor(180 / masks.length)));
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round((row * masks.length + 6) * ratio);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      canvas.style.height = `${row * masks.length + 6}px`;
    }
    const draw = canvas.getContext('2d');
    draw.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const image = draw.createImageData(width, masks.length);
    const [r, g, b] = style.getPropertyValue('--heat').trim().split(/\s+/).map(Number);
    for (const [layer, mask] of masks.entries()) {
      const dim = this.layer === null || this.layer === layer ? 1 : 0.25;
      paint_row(image, layer, mask, context, [r, g, b], dim);
    }
    // One pixel a layer, stretched downward without smoothing.
    const small = new OffscreenCanvas(width, masks.length);
    small.getContext('2d').putImageData(image, 0, 0);
    draw.imageSmoothingEnabled = false;
    draw.drawImage(small, 0, 0, width, row * masks.length * ratio);
    if (this.shown) {
      const [first, last] = this.shown.map((p) => (p / context) * width);
      draw.fillStyle = style.color;
      draw.fillRect(first, height - 3 * ratio, Math.max(3 * ratio, last - first), 3 * ratio);
    }
  }
}

// A pixel stands for one position or many: it is as strong as the share of them that was selected.
function paint_row(image, row, mask, context, [r, g, b], dim) {
  const { width, data } = image;
  for (let x = 0; x < width; ++x) {
    const from = Math.floor((x * context) / width);
    const to = Math.max(from + 1, Math.floor(((x + 1) * context) / width));
    let count = 0;
    for (let i = from; i < to; ++i) count += mask[i];
    const at = (row * width + x) * 4;
    data[at] = r;
    data[at + 1] = g;
    data[at + 2] = b;
    data[at + 3] = 255 * dim * Math.sqrt(count / (to - from));
  }
}
