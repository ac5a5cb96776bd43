// nginx in front with the settings it comes with: it ends answers that are silent for 60 seconds.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, test } from 'node:test';
import * as h from './helpers.mjs';

const text = 'word '.repeat(250);
// A call of two minutes.
const played = h.play([{ say: h.call('write_file', { text }) }], { tokens_per_second: 2.1 });
const port = 20000 + (process.pid % 20000);
let nginx;

before(async () => {
  await played.ready;
  const file = path.join(played.home, 'nginx.conf');
  await writeFile(
    file,
    `daemon off; pid ${played.home}/nginx.pid; error_log stderr;
     events {}
     http {
       access_log off;
       client_body_temp_path ${played.home}/body; proxy_temp_path ${played.home}/proxy;
       fastcgi_temp_path ${played.home}/f; uwsgi_temp_path ${played.home}/u;
       scgi_temp_path ${played.home}/s;
       server { listen 127.0.0.1:${port}; location / { proxy_pass ${played.url}; } }
     }`,
  );
  nginx = spawn('nginx', ['-p', played.home, '-c', file], { stdio: 'inherit' });
  for (let tries = 0; ; tries += 1) {
    const up = await fetch(`http://127.0.0.1:${port}/health`).catch(() => null);
    if (up?.ok) break;
    assert.ok(tries < 100, 'nginx does not answer');
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
});
after(() => nginx?.kill('SIGTERM'));

test('a call of two minutes arrives', { timeout: 300_000 }, async () => {
  const begin = Date.now();
  const reply = await fetch(`http://127.0.0.1:${port}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      stream: true,
      messages: [{ role: 'user', content: 'Write it.' }],
      tools: [{ type: 'function', function: { name: 'write_file', parameters: {} } }],
    }),
  });
  assert.equal(reply.status, 200);
  let body = '';
  let last = Date.now();
  let longest = 0;
  for await (const piece of reply.body.pipeThrough(new TextDecoderStream())) {
    longest = Math.max(longest, Date.now() - last);
    last = Date.now();
    body += piece;
  }
  const seconds = (Date.now() - begin) / 1000;
  assert.ok(seconds > 100, `${seconds} s`);
  assert.ok(longest < 11_000, `silent for ${longest} ms`);
  const chunks = body
    .split('\n')
    .filter((line) => line.startsWith('data: {'))
    .map((line) => JSON.parse(line.slice('data: '.length)));
  const pieces = chunks.flatMap((c) => c.choices[0]?.delta?.tool_calls ?? []);
  const written = pieces.map((p) => p.function?.arguments ?? '').join('');
  assert.deepEqual(JSON.parse(written), { text });
  assert.match(body, /\[DONE\]/);
});
