// What goes wrong, as the npm client `openai` sees it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import * as h from './helpers.mjs';

const served = h.serve(['--api-key', 'secret']);
const ask = (overrides, apiKey = 'secret') =>
  new OpenAI({
    baseURL: `${served.url}/v1`,
    apiKey,
    maxRetries: 0,
  }).chat.completions.create({ messages: h.needle, temperature: 0, max_completion_tokens: 5, ...overrides });

test('a key is needed', async () => {
  assert.equal((await ask({ model: h.model })).object, 'chat.completion');
  await assert.rejects(ask({ model: h.model }, 'secreT'), (e) => {
    assert.ok(e instanceof OpenAI.AuthenticationError);
    assert.equal(e.status, 401);
    return true;
  });
  assert.equal((await fetch(`${served.url}/v1/models`)).status, 401);
  assert.equal((await fetch(`${served.url}/health`)).status, 200);
});

test('another model is not found', async () => {
  await assert.rejects(ask({ model: 'gpt-5' }), (e) => {
    assert.ok(e instanceof OpenAI.NotFoundError);
    assert.equal(e.code, 'model_not_found');
    assert.match(e.message, /gpt-5/);
    return true;
  });
});

test('the model need not be named', async () => {
  const reply = await fetch(`${served.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: 'Bearer secret', 'content-type': 'application/json' },
    body: JSON.stringify({ messages: h.needle, max_tokens: 2 }),
  });
  assert.equal(reply.status, 200);
  assert.equal((await reply.json()).model, h.model);
});

test('values out of range are refused, and named', async () => {
  for (const wrong of [
    { temperature: -1 },
    { temperature: 'hot' },
    { top_p: 2 },
    { n: 0 },
    { max_completion_tokens: -5 },
    { logit_bias: { 5: 1000 } },
    { messages: [] },
    { messages: [{ role: 'king', content: 'x' }] },
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
    { tools: [{ type: 'retrieval' }] },
    { stop: ['a', 7] },
  ]) {
    await assert.rejects(ask({ model: h.model, ...wrong }), (e) => {
      assert.ok(e instanceof OpenAI.BadRequestError, `${JSON.stringify(wrong)}: ${e}`);
      assert.equal(e.type, 'invalid_request_error');
      return true;
    });
  }
});

test('a limit beyond the context is cut to what is left of it', async () => {
  const answer = await ask({ model: h.model, max_completion_tokens: 10_000_000, temperature: 0 });
  assert.ok(['stop', 'length'].includes(answer.choices[0].finish_reason));
  assert.ok(answer.usage.total_tokens <= 8192);
});

test('a prompt that is too long has the code that clients look for', async () => {
  const messages = [{ role: 'user', content: 'a b '.repeat(9000) }];
  await assert.rejects(ask({ model: h.model, messages }), (e) => {
    assert.ok(e instanceof OpenAI.BadRequestError);
    assert.equal(e.code, 'context_length_exceeded');
    assert.equal(e.param, 'messages');
    assert.match(e.message, /This model's maximum context length is \d+ tokens/);
    return true;
  });
});

test('what is no JSON, no UTF-8, too deep or nowhere', async () => {
  const post = (path, body) =>
    fetch(`${served.url}${path}`, {
      method: 'POST',
      headers: { authorization: 'Bearer secret', 'content-type': 'application/json' },
      body,
    });
  const chat = '/v1/chat/completions';
  for (const body of [
    '{"messages": [',
    '',
    '[]',
    Buffer.from('{"messages": [{"role": "user", "content": "\xff\xfe"}]}', 'latin1'),
    `{"messages": ${'['.repeat(100_000)}${']'.repeat(100_000)}}`,
  ]) {
    const reply = await post(chat, body);
    assert.equal(reply.status, 400);
    assert.equal((await reply.json()).error.type, 'invalid_request_error');
  }
  assert.equal((await post('/v1/embeddings', '{}')).status, 404);
  assert.equal((await post('/v1/models', '{}')).status, 405);
});

test('embeddings are not there', async () => {
  const client = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: 'secret', maxRetries: 0 });
  await assert.rejects(
    client.embeddings.create({ model: h.model, input: 'x' }),
    (e) => e instanceof OpenAI.NotFoundError,
  );
});
