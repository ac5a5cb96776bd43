// What to show of a selection: plain functions of what the server said, without a page.

// {layer, selected: [position | [first, last], ...]} of every layer, as one array of bytes a layer:
// 1 where a position was selected.
export function masks_of(layers, context) {
  return layers.map(({ selected }) => {
    const mask = new Uint8Array(context);
    for (const range of selected) {
      if (typeof range === 'number') mask[range] = 1;
      else mask.fill(1, range[0], range[1] + 1);
    }
    return mask;
  });
}

// The share of the layers that selected each position, 0 to 1.
export function share_heat(masks, context) {
  const heat = new Float32Array(context);
  for (const mask of masks) for (let i = 0; i < context; ++i) heat[i] += mask[i];
  for (let i = 0; i < context; ++i) heat[i] /= masks.length;
  return heat;
}

const kNear = 3; // tokens to each side that make a passage
const kAround = 100; // tokens to each side that it is compared with

function running_sums(mask) {
  const sums = new Uint32Array(mask.length + 1);
  for (let i = 0; i < mask.length; ++i) sums[i + 1] = sums[i] + mask[i];
  return sums;
}

// How much a passage stands out: in the layer where that is most, the share of its tokens that were
// selected, less the same of everything around it, 0 to 1. Indexers read the last tokens and a
// scattering of others at every step; that is even, and stays dark. What one layer picks out of its
// surroundings is what the token was about.
export function contrast_heat(masks, context) {
  const heat = new Float32Array(context);
  for (const mask of masks) {
    const sums = running_sums(mask);
    const share = (i, reach) => {
      const from = Math.max(0, i - reach);
      const to = Math.min(context, i + reach + 1);
      return (sums[to] - sums[from]) / (to - from);
    };
    for (let i = 0; i < context; ++i) {
      heat[i] = Math.max(heat[i], share(i, kNear) - share(i, kAround));
    }
  }
  return heat;
}

// Of a contrast: how far its strongest passage stands out. The first tokens and the last ones are
// left out, as they are read for whatever token.
export function peak_of(heat) {
  let peak = 0;
  for (let i = 4; i < heat.length - kAround; ++i) peak = Math.max(peak, heat[i]);
  return peak;
}

// `heat` in steps of 0 to `steps` - 1 for colours. Contrasts are stretched: what stands out most is
// the darkest, however much that is, unless nothing does.
export function steps_of(heat, steps, stretch) {
  let top = 1;
  if (stretch) {
    top = 0.35;
    for (const value of heat) top = Math.max(top, value);
  }
  const out = new Uint8Array(heat.length);
  for (let i = 0; i < heat.length; ++i) {
    const value = heat[i] / top;
    // Half of the highest contrast is noise: only what is above it gets a colour.
    const shown = stretch ? (value - 0.4) / 0.6 : value;
    out[i] = Math.max(0, Math.min(steps - 1, Math.round(shown * (steps - 1))));
  }
  return out;
}
