// HTTP as clients and proxies in the wild speak it.
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { test } from 'node:test';
import { deflateRawSync, deflateSync, gzipSync } from 'node:zlib';
import * as h from './helpers.mjs';

const served = h.serve(['--api-key', 'secret']);
const key = { authorization: 'Bearer secret' };
const question = JSON.stringify({ messages: h.needle, temperature: 0, max_tokens: 20 });

const post = (path, body, headers = {}) =>
  fetch(`${served.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...key, ...headers },
    body,
  });
const answer_of = async (reply) => {
  assert.equal(reply.status, 200, await reply.clone().text());
  return (await reply.json()).choices[0].message.content;
};

test('compressed bodies', async () => {
  for (const [coding, body] of [
    ['gzip', gzipSync(question)],
    ['deflate', deflateSync(question)],
    ['deflate', deflateRawSync(question)],
  ]) {
    const reply = await post('/v1/chat/completions', body, { 'content-encoding': coding });
    assert.equal(await answer_of(reply), h.answer, coding);
  }
  const unknown = await post('/v1/chat/completions', question, { 'content-encoding': 'br' });
  assert.equal(unknown.status, 415);
  assert.equal(unknown.headers.get('accept-encoding'), 'gzip, deflate, zstd');
  const bomb = gzipSync(Buffer.alloc(64 << 20));
  const refused = await post('/v1/chat/completions', bomb, { 'content-encoding': 'gzip' });
  assert.equal(refused.status, 413);
  assert.match((await refused.json()).error.message, /once it is decompressed/);
});

test('slashes too many', async () => {
  for (const path of ['//v1/chat/completions', '/v1//chat/completions', '/v1/chat/completions/'])
    assert.equal(await answer_of(await post(path, question)), h.answer);
});

test('a right key beside a wrong one', async () => {
  for (const headers of [
    { authorization: 'Bearer wrong', 'x-api-key': 'secret' },
    { authorization: 'Bearer secret', 'x-api-key': 'wrong' },
  ])
    assert.equal((await fetch(`${served.url}/v1/models`, { headers })).status, 200);
});

test('HEAD has the head of GET', async () => {
  for (const path of ['/', '/health', '/v1/models']) {
    const reply = await fetch(`${served.url}${path}`, { method: 'HEAD', headers: key });
    assert.equal(reply.status, 200, path);
    assert.equal(await reply.text(), '');
  }
});

test('a stream is not to be kept or held back', async () => {
  const body = JSON.stringify({ ...JSON.parse(question), stream: true });
  const reply = await post('/v1/chat/completions', body);
  assert.equal(reply.headers.get('cache-control'), 'no-cache');
  assert.equal(reply.headers.get('x-accel-buffering'), 'no');
  assert.match(await reply.text(), /\[DONE\]/);
});

test('a client that closes its side still gets its answer', async () => {
  const { hostname, port } = new URL(served.url);
  const socket = connect({ host: hostname, port, allowHalfOpen: true });
  socket.end(
    `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n` +
      `Content-Length: ${question.length}\r\n\r\n${question}`,
  );
  let text = '';
  for await (const piece of socket.setEncoding('utf8')) text += piece;
  assert.match(text, /HTTP\/1\.1 200 OK/);
  assert.ok(text.includes(h.answer));
});

test('endpoints that are not there say what is absent', async () => {
  for (const [path, what] of [
    ['/v1/embeddings', /makes no embeddings/],
    ['/v1/images/generations', /makes no images/],
    ['/v1/audio/speech', /neither hears nor speaks/],
    ['/v1/responses/compact', /does not compact/],
    ['/api/chat', /Ollama/],
  ]) {
    const reply = await post(path, '{}');
    assert.equal(reply.status, 404, path);
    assert.match((await reply.json()).error.message, what);
  }
});
