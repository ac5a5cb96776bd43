// Codex CLI, `codex exec`, over /v1/responses.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import * as h from './helpers.mjs';

const played = h.play([
  { if: 'Seen from the tool: rain in Paris.', say: 'It rains in Paris, the tool says.' },
  { if: 'weather in Paris', say: h.call('mcp__weather__get_weather', { city: 'Paris' }) },
  { if: 'And once more', say: 'Hello again.' },
  { if: 'Answer as JSON', say: '{"greeting": "hello"}' },
  { say: 'Hello from the script.' },
]);

const quoted = (text) => JSON.stringify(text);

async function codex(args, more = '') {
  const folder = path.join(played.home, '.codex');
  await mkdir(folder, { recursive: true });
  await writeFile(
    path.join(folder, 'config.toml'),
    `model = "small"
model_provider = "fathom"
model_context_window = 131072
[model_providers.fathom]
name = "fathom"
base_url = ${quoted(`${played.url}/v1`)}
wire_api = "responses"
${more}`,
  );
  const result = await h.run_agent(played, '.bin/codex', ['exec', ...args]);
  assert.equal(result.code, 0, `${result.stdout}\n${result.stderr}`);
  return result.stdout.trim();
}

test('plain', async () => {
  assert.match(await codex(['--skip-git-repo-check', 'Say hello.']), /Hello from the script\.$/);
});

test('a tool of an MCP server', async () => {
  const server = `[mcp_servers.weather]
command = ${quoted(process.execPath)}
args = [${quoted(path.join(h.here, 'mcp_weather.mjs'))}]
`;
  const said = await codex(['--skip-git-repo-check', 'What is the weather in Paris?'], server);
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
  const said = await codex(['--skip-git-repo-check', '--output-schema', file, 'Answer as JSON.']);
  assert.deepEqual(JSON.parse(said), { greeting: 'hello' });
});

test('resume', async () => {
  await codex(['--skip-git-repo-check', 'Say hello.']);
  const said = await codex(['resume', '--last', '--skip-git-repo-check', 'And once more']);
  assert.match(said, /Hello again\.$/);
});
