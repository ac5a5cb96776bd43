// The agents against the bundled model itself, with a context that holds their prompts. What such a
// small model says to them is anything; that it is asked, answers and ends is what is looked at.
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { start_server } from '../support_node/server.mjs';
import { claude, codex, opencode } from './agents.mjs';
import * as h from './helpers.mjs';

// Room for their prompts and a short answer: what the model says of such prompts may have no end.
const context = 32768;
const served = {};

before(async () => {
  served.home = await mkdtemp(path.join(tmpdir(), 'fathom-agents-'));
  const config = JSON.parse(await readFile(path.join(h.root, 'models/small/config.json'), 'utf8'));
  config.max_position_embeddings = context;
  config.rope_scaling.factor = context / config.rope_scaling.original_max_position_embeddings;
  const file = path.join(served.home, 'config.json');
  await writeFile(file, JSON.stringify(config));
  served.server = await start_server({ args: ['--served-model-name', 'small', '--config', file] });
  served.url = served.server.url;
  served.log = served.server.log;
});
after(async () => {
  assert.equal(await served.server?.stop(), 0);
  await rm(served.home, { recursive: true, force: true, maxRetries: 5 });
});

// What was answered on `where` since the last call. A program that has what it wants may leave
// another of its requests, such as that for a title.
let seen = 0;
function answers_on(where) {
  const all = h.requests_of(served);
  const asked = all.slice(seen).filter((line) => line.path.startsWith(where));
  seen = all.length;
  for (const line of asked) assert.ok([200, 499].includes(line.status), JSON.stringify(line));
  return asked.filter((line) => line.status === 200);
}

for (const [name, run, where] of [
  ['Codex', () => codex(served, ['Say hello.']), '/v1/responses'],
  ['Claude Code', () => claude(served, ['Say hello.']), '/v1/messages'],
  ['opencode', () => opencode(served, 'Say hello.'), '/v1/chat/completions'],
]) {
  test(name, { timeout: 600_000 }, async () => {
    await run();
    const answers = answers_on(where);
    const whole = answers.some((line) => line.prompt_tokens > 5000 && line.completion_tokens > 0);
    assert.ok(whole, JSON.stringify(answers));
  });
}
