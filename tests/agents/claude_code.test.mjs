// Claude Code, `claude -p`, over /v1/messages.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import * as h from './helpers.mjs';

// Claude Code asks for reasoning, which the script has to end.
const played = h.play([
  { if: 'the word is plover', say: 'The file says plover.' },
  { if: 'Read the note', say: `Fine.</think>${h.call('Bash', { command: 'cat note.txt', description: 'Reads' })}` },
  { say: 'Fine.</think>Hello from the script.' },
]);

async function claude(args) {
  const result = await h.run_agent(played, '@anthropic-ai/claude-code-linux-x64/claude', ['-p', ...args], {
    env: {
      ANTHROPIC_BASE_URL: played.url,
      ANTHROPIC_AUTH_TOKEN: 'none',
      ANTHROPIC_MODEL: 'small',
      ANTHROPIC_DEFAULT_HAIKU_MODEL: 'small',
      CLAUDE_CODE_MAX_CONTEXT_TOKENS: '131072',
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
    },
  });
  assert.equal(result.code, 0, `${result.stdout}\n${result.stderr}`);
  return result.stdout.trim();
}

test('plain', async () => {
  assert.equal(await claude(['Say hello.']), 'Hello from the script.');
});

test('a tool', async () => {
  const work = path.join(played.home, 'work');
  await mkdir(work, { recursive: true });
  await writeFile(path.join(work, 'note.txt'), 'the word is plover\n');
  const said = await claude(['--allowedTools', 'Bash', '--', 'Read the note.']);
  assert.equal(said, 'The file says plover.');
});
