// The page's parsers, in node: they need no browser.
import assert from 'node:assert/strict';
import test from 'node:test';
import { format_rate } from '../../web/dom.js';
import { stats_of } from '../../web/generate.js';
import { SseParser } from '../../web/sse.js';
import { contrast_heat, masks_of, peak_of, share_heat, steps_of } from '../../web/dsa_heat.js';

const stream = '\ufeff: hello\r\ndata: {"a":"ü漢🦔"}\r\n\r\ndata: one\rdata: two\r\revent: error\ndata\ndata:  x\nid: 7\n\n\n\ndata: cut';
const expected = [
  { type: 'message', data: '{"a":"ü漢🦔"}' },
  { type: 'message', data: 'one\ntwo' },
  { type: 'error', data: '\n x' },
];

test('events are the same wherever the bytes are cut', () => {
  const bytes = new TextEncoder().encode(stream);
  for (let size = 1; size <= bytes.length; ++size) {
    const parser = new SseParser();
    const events = [];
    for (let i = 0; i < bytes.length; i += size) events.push(...parser.push(bytes.slice(i, i + size)));
    assert.deepEqual(events, expected, `pieces of ${size} bytes`);
  }
});

test('an event without its blank line has not happened', () => {
  const parser = new SseParser();
  assert.deepEqual(parser.push_text('data: a\n'), []);
  assert.deepEqual(parser.push_text('\r'), [{ type: 'message', data: 'a' }]);
  assert.deepEqual(parser.push_text('\n\n'), []);
});

test('selections become masks and shares', () => {
  const layers = [{ selected: [0, [2, 4]] }, { selected: [[3, 5]] }];
  const masks = masks_of(layers, 6);
  assert.deepEqual(masks.map((mask) => [...mask]), [[1, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]]);
  assert.deepEqual([...share_heat(masks, 6)], [0.5, 0, 0.5, 1, 1, 0.5]);
});

test('a passage that one layer picks out is the hottest; what is read evenly is dark', () => {
  const context = 2000;
  const even = new Uint8Array(context).map((_, i) => (i % 4 === 0 || i > 1700 ? 1 : 0));
  const picks = Uint8Array.from(even);
  picks.fill(1, 500, 510);
  const heat = contrast_heat([even, picks, even], context);
  const hottest = heat.indexOf(Math.max(...heat));
  assert.ok(hottest >= 500 && hottest < 510, `the hottest is ${hottest}`);
  assert.ok(peak_of(heat) > 0.6);
  const steps = steps_of(heat, 9, true);
  assert.equal(steps[505], 8);
  assert.equal(steps[1000], 0);
  assert.equal(steps[1900], 0);
  // Everything is selected: nothing stands out.
  assert.deepEqual([...steps_of(contrast_heat([new Uint8Array(50).fill(1)], 50), 9, true)], Array(50).fill(0));
});

test('tokens a second are those behind the first; pieces that came at once say none', () => {
  const usage = { prompt_tokens: 5, completion_tokens: 101 };
  assert.deepEqual(stats_of(usage, 1000, 1200, 2200, 60), { usage, tokens: 101, first_ms: 200, rate: 100 });
  assert.equal(stats_of(usage, 1000, 1200, 1202, 60).rate, null);
  assert.deepEqual(stats_of(undefined, 0, 10, 1010, 3), { usage: undefined, tokens: 3, first_ms: 10, rate: 2 });
  assert.deepEqual(stats_of(undefined, 0, null, null, 0), { usage: undefined, tokens: 0, first_ms: null, rate: null });
});

test('the speed of a slow model is not zero', () => {
  assert.deepEqual([0.044, 0.5, 3.14159, 41.7, 1234].map(format_rate), ['0.04', '0.50', '3.1', '42', '1,234']);
});
