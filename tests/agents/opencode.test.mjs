// opencode, `opencode run`, over /v1/chat/completions.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { opencode } from './agents.mjs';
import * as h from './helpers.mjs';

const played = h.play([
  { if: 'the word is plover', say: 'The file says plover.' },
  { if: 'Read the note', say: h.call('bash', { command: 'cat note.txt', description: 'Reads' }) },
  { say: 'Hello from the script.' },
]);

test('plain', async () => {
  assert.match(await opencode(played, 'Say hello.'), /Hello from the script\./);
});

test('a tool', async () => {
  await h.write_note(played);
  assert.match(await opencode(played, 'Read the note.'), /The file says plover\./);
});
