// Claude Code, `claude -p`, over /v1/messages.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { claude } from './agents.mjs';
import * as h from './helpers.mjs';

// Claude Code asks for reasoning, which the script has to end.
const played = h.play([
  { if: 'the word is plover', say: 'The file says plover.' },
  { if: 'Read the note', say: `Fine.</think>${h.call('Bash', { command: 'cat note.txt', description: 'Reads' })}` },
  { say: 'Fine.</think>Hello from the script.' },
]);

test('plain', async () => {
  assert.equal(await claude(played, ['Say hello.']), 'Hello from the script.');
});

test('a tool', async () => {
  await h.write_note(played);
  const said = await claude(played, ['--allowedTools', 'Bash', '--', 'Read the note.']);
  assert.equal(said, 'The file says plover.');
});
