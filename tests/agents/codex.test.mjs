// Codex CLI, `codex exec`, over /v1/responses.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { codex } from './agents.mjs';
import * as h from './helpers.mjs';

const played = h.play([
  { if: 'Seen from the tool: rain in Paris.', say: 'It rains in Paris, the tool says.' },
  { if: 'weather in Paris', say: h.call('mcp__weather__get_weather', { city: 'Paris' }) },
  { if: 'And once more', say: 'Hello again.' },
  { if: 'Answer as JSON', say: '{"greeting": "hello"}' },
  { say: 'Hello from the script.' },
]);

test('plain', async () => {
  assert.match(await codex(played, ['Say hello.']), /Hello from the script\.$/);
});

test('a tool of an MCP server', async () => {
  const server = `[mcp_servers.weather]
command = ${JSON.stringify(process.execPath)}
args = [${JSON.stringify(path.join(h.here, 'mcp_weather.mjs'))}]
`;
  const said = await codex(played, ['What is the weather in Paris?'], server);
  assert.match(said, /It rains in Paris, the tool says\.$/);
});

test('--output-schema', async () => {
  const file = path.join(played.home, 'schema.json');
  const schema = {
    type: 'object',
    properties: { greeting: { type: 'string' } },
    required: ['greeting'],
    additionalProperties: false,
  };
  await writeFile(file, JSON.stringify(schema));
  const said = await codex(played, ['--output-schema', file, 'Answer as JSON.']);
  assert.deepEqual(JSON.parse(said), { greeting: 'hello' });
});

test('resume', async () => {
  await codex(played, ['Say hello.']);
  const said = await codex(played, ['resume', '--last', 'And once more']);
  assert.match(said, /Hello again\.$/);
});
