// opencode, `opencode run`, over /v1/chat/completions.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import * as h from './helpers.mjs';

const played = h.play([
  { if: 'the word is plover', say: 'The file says plover.' },
  { if: 'Read the note', say: h.call('bash', { command: 'cat note.txt', description: 'Reads' }) },
  { say: 'Hello from the script.' },
]);

async function opencode(prompt) {
  const folder = path.join(played.home, '.config/opencode');
  await mkdir(folder, { recursive: true });
  const provider = {
    npm: '@ai-sdk/openai-compatible',
    name: 'fathom',
    options: { baseURL: `${played.url}/v1`, apiKey: 'none' },
    models: { small: { name: 'small', limit: { context: 65536, output: 4096 } } },
  };
  await writeFile(
    path.join(folder, 'opencode.json'),
    JSON.stringify({
      autoupdate: false,
      share: 'disabled',
      provider: { fathom: provider },
      model: 'fathom/small',
      small_model: 'fathom/small',
    }),
  );
  const result = await h.run_agent(played, 'opencode-linux-x64-baseline/bin/opencode', ['run', prompt], {
    env: { OPENCODE_DISABLE_MODELS_FETCH: '1', OPENCODE_DISABLE_AUTOUPDATE: '1' },
  });
  assert.equal(result.code, 0, `${result.stdout}\n${result.stderr}`);
  return result.stdout.trim();
}

test('plain', async () => {
  assert.match(await opencode('Say hello.'), /Hello from the script\./);
});

test('a tool', async () => {
  const work = path.join(played.home, 'work');
  await mkdir(work, { recursive: true });
  await writeFile(path.join(work, 'note.txt'), 'the word is plover\n');
  assert.match(await opencode('Read the note.'), /The file says plover\./);
});
