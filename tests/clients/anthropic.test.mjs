// /v1/messages through the npm client `@anthropic-ai/sdk`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import * as h from './helpers.mjs';

const served = h.serve(['--api-key', 'secret']);
const client = (apiKey = 'secret') =>
  new Anthropic({ baseURL: served.url, apiKey, maxRetries: 0 });
const greedy = { model: h.model, max_tokens: 60, temperature: 0 };
const weather_tool = {
  name: 'get_weather',
  description: 'Get the weather of a city',
  input_schema: h.weather_schema,
};

test('a whole message', async () => {
  const message = await client().messages.create({
    ...greedy,
    system: 'Answer shortly.',
    messages: h.needle,
    metadata: { user_id: 'x' },
  });
  assert.equal(message.type, 'message');
  assert.equal(message.role, 'assistant');
  assert.equal(message.model, h.model);
  assert.deepEqual(
    message.content.map((b) => b.type),
    ['text'],
  );
  assert.equal(message.content[0].text, h.answer);
  assert.equal(message.stop_reason, 'end_turn');
  assert.equal(message.stop_sequence, null);
  assert.ok(message.usage.input_tokens + message.usage.cache_read_input_tokens > 20);
  assert.ok(message.usage.output_tokens > 3);
});

test('system in blocks, blocks in messages', async () => {
  const message = await client().messages.create({
    ...greedy,
    system: [
      { type: 'text', text: 'Be kind.', cache_control: { type: 'ephemeral' } },
      { type: 'text', text: h.fact },
    ],
    messages: [{ role: 'user', content: [{ type: 'text', text: h.question }] }],
  });
  assert.match(message.content[0].text, /pass key of Alice/);
});

test('a stream: every event in its place', async () => {
  const stream = await client().messages.create({ ...greedy, messages: h.needle, stream: true });
  const events = await h.collect(stream);
  const types = events.map((e) => e.type);
  assert.deepEqual(
    types.filter((t) => t !== 'content_block_delta' && t !== 'ping'),
    ['message_start', 'content_block_start', 'content_block_stop', 'message_delta', 'message_stop'],
  );
  const text = events
    .filter((e) => e.type === 'content_block_delta')
    .map((e) => e.delta.text)
    .join('');
  assert.equal(text, h.answer);
});

test("the client's own reading of a stream", async () => {
  const request = { ...greedy, messages: h.needle };
  const streamed = await client().messages.stream(request).finalMessage();
  const whole = await client().messages.create(request);
  assert.deepEqual(streamed.content, whole.content);
  assert.equal(streamed.stop_reason, 'end_turn');
  assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
  const prompt = (m) => m.usage.input_tokens + m.usage.cache_read_input_tokens;
  assert.equal(prompt(streamed), prompt(whole));
});

for (const choice of [
  { type: 'any' },
  { type: 'tool', name: 'get_weather', disable_parallel_tool_use: true },
]) {
  test(`tool use, ${choice.type}: as a whole and as a stream`, async () => {
    const request = {
      ...greedy,
      messages: h.needle, // it would rather answer
      tools: [weather_tool],
      tool_choice: choice,
    };
    const message = await client().messages.create(request);
    const use = message.content.find((b) => b.type === 'tool_use');
    assert.equal(message.stop_reason, 'tool_use');
    assert.equal(use.name, 'get_weather');
    assert.deepEqual(Object.keys(use.input), ['city']);
    const streamed = await client().messages.stream(request).finalMessage();
    assert.deepEqual(streamed.content.find((b) => b.type === 'tool_use').input, use.input);
    assert.equal(streamed.stop_reason, 'tool_use');
  });
}

test('tool use of its own accord, and its result', async () => {
  const messages = [{ role: 'user', content: h.weather_question }];
  const request = { ...greedy, messages, tools: [weather_tool] };
  const message = await client().messages.create(request);
  assert.equal(message.stop_reason, 'tool_use');
  const use = message.content.find((b) => b.type === 'tool_use');
  assert.deepEqual(use.input, { city: 'Paris' });
  messages.push({ role: 'assistant', content: message.content });
  messages.push({
    role: 'user',
    content: [
      { type: 'tool_result', tool_use_id: use.id, content: [{ type: 'text', text: 'Clear sky.' }] },
    ],
  });
  const told = await client().messages.create(request);
  assert.equal(told.stop_reason, 'end_turn');
  assert.equal(told.content[0].type, 'text');
});

test('tools that may not be used', async () => {
  const message = await client().messages.create({
    ...greedy,
    messages: h.needle,
    tools: [weather_tool],
    tool_choice: { type: 'none' },
  });
  assert.ok(message.content.every((b) => b.type === 'text'));
});

test('thinking', async () => {
  const request = {
    ...greedy,
    max_tokens: 1200,
    messages: h.needle,
    thinking: { type: 'enabled', budget_tokens: 1024 },
  };
  const message = await client().messages.create(request);
  const [block] = message.content;
  assert.equal(block.type, 'thinking');
  assert.ok(block.thinking.length > 0);
  assert.ok(block.signature.length > 0);
  const streamed = await client().messages.stream(request).finalMessage();
  assert.equal(streamed.content[0].thinking, block.thinking);
  assert.ok(streamed.content[0].signature.length > 0);
  // What came out goes in again.
  const next = await client().messages.create({
    ...greedy,
    messages: [
      ...h.needle,
      { role: 'assistant', content: message.content },
      { role: 'user', content: h.question },
    ],
  });
  assert.equal(next.role, 'assistant');
});

test('stop reasons', async () => {
  const cut = await client().messages.create({ ...greedy, max_tokens: 3, messages: h.needle });
  assert.equal(cut.stop_reason, 'max_tokens');
  assert.equal(cut.usage.output_tokens, 3);
  const stopped = await client().messages.create({
    ...greedy,
    messages: h.needle,
    stop_sequences: ['never', ' of Alice'],
  });
  assert.equal(stopped.stop_reason, 'stop_sequence');
  assert.equal(stopped.stop_sequence, ' of Alice');
  assert.equal(stopped.content[0].text, 'The pass key');
});

test('an answer that follows a JSON schema', async () => {
  const message = await client().messages.create({
    ...greedy,
    max_tokens: 300,
    messages: h.needle,
    output_config: { format: { type: 'json_schema', schema: h.weather_schema } },
  });
  assert.deepEqual(Object.keys(JSON.parse(message.content[0].text)), ['city']);
});

test('tokens are counted as they are used', async () => {
  const request = { model: h.model, messages: h.needle, system: 'Be kind.', tools: [weather_tool] };
  const { input_tokens } = await client().messages.countTokens(request);
  const message = await client().messages.create({ ...greedy, ...request });
  const { usage } = message;
  assert.equal(input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
});

test('errors are of the right class', async () => {
  const create = (overrides, key) =>
    client(key).messages.create({ ...greedy, messages: h.needle, ...overrides });
  await assert.rejects(create({}, 'wrong'), (e) => {
    assert.ok(e instanceof Anthropic.AuthenticationError);
    assert.equal(e.error.error.type, 'authentication_error');
    return true;
  });
  await assert.rejects(create({ model: 'other' }), (e) => e instanceof Anthropic.NotFoundError);
  for (const wrong of [
    { max_tokens: 0 },
    { messages: [] },
    { messages: [{ role: 'user', content: [{ type: 'image', source: {} }] }] },
    { tools: [{ type: 'web_search_20250305', name: 'web_search' }] },
    { tool_choice: { type: 'tool', name: 'other' }, tools: [weather_tool] },
    { thinking: { type: 'enabled' } },
    { top_p: 2 },
    { container: 'c' },
  ]) {
    await assert.rejects(create(wrong), (e) => {
      assert.ok(e instanceof Anthropic.BadRequestError, `${JSON.stringify(wrong)}: ${e}`);
      assert.equal(e.error.type, 'error');
      assert.equal(e.error.error.type, 'invalid_request_error');
      return true;
    });
  }
});

test('a client that goes away frees the engine', async () => {
  const before = await h.aborted(served.url);
  const stream = client().messages.stream({
    model: h.model,
    max_tokens: 6000,
    messages: h.long_story,
    ignore_eos: true,
  });
  await new Promise((resolve) => stream.once('text', resolve));
  stream.abort();
  await assert.rejects(stream.done(), Anthropic.APIUserAbortError);
  await h.until(async () => (await h.aborted(served.url)) === before + 1, 'the request is aborted');
  const running = () => h.metric(served.url, 'vllm:num_requests_running');
  await h.until(async () => (await running()) === 0, 'nothing runs any more');
});
