// The Responses API through the npm client `openai`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import * as h from './helpers.mjs';

const served = h.serve();
const greedy = { model: h.model, temperature: 0, max_output_tokens: 60 };
const weather_tool = {
  type: 'function',
  name: 'get_weather',
  description: 'Get the weather of a city',
  parameters: h.weather_schema,
  strict: true,
};

test('a whole answer', async () => {
  const response = await served.openai.responses.create({
    ...greedy,
    instructions: 'Answer shortly.',
    input: `${h.fact} ${h.question}`,
    metadata: { purpose: 'test' },
  });
  assert.equal(response.object, 'response');
  assert.equal(response.status, 'completed');
  assert.equal(response.model, h.model);
  assert.equal(response.output_text, h.answer);
  assert.equal(response.instructions, 'Answer shortly.');
  assert.deepEqual(response.metadata, { purpose: 'test' });
  assert.equal(response.error, null);
  assert.equal(response.output[0].type, 'message');
  assert.equal(response.output[0].role, 'assistant');
  const { usage } = response;
  assert.equal(usage.total_tokens, usage.input_tokens + usage.output_tokens);
  assert.equal(typeof usage.input_tokens_details.cached_tokens, 'number');
  assert.equal(usage.output_tokens_details.reasoning_tokens, 0);
});

test('a stream: every event in its place', async () => {
  const stream = await served.openai.responses.create({
    ...greedy,
    input: h.needle,
    stream: true,
  });
  const events = await h.collect(stream);
  events.forEach((event, i) => assert.equal(event.sequence_number, i));
  const types = events.map((e) => e.type);
  assert.deepEqual(
    types.filter((t) => t !== 'response.output_text.delta'),
    [
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ],
  );
  assert.equal(events.at(-1).response.output[0].content[0].text, h.answer);
});

test("the client's own reading of a stream", async () => {
  const stream = served.openai.responses.stream({ ...greedy, input: h.needle });
  let text = '';
  stream.on('response.output_text.delta', (event) => {
    text += event.delta;
    assert.equal(event.snapshot, text);
  });
  const response = await stream.finalResponse();
  assert.equal(text, h.answer);
  assert.equal(response.output_text, h.answer);
  assert.equal(response.status, 'completed');
});

test('an answer that is cut is incomplete', async () => {
  const request = { ...greedy, max_output_tokens: 3, input: h.needle };
  const response = await served.openai.responses.create(request);
  assert.equal(response.status, 'incomplete');
  assert.equal(response.incomplete_details.reason, 'max_output_tokens');
  assert.equal(response.usage.output_tokens, 3);
  const events = await h.collect(
    await served.openai.responses.create({ ...request, stream: true }),
  );
  assert.equal(events.at(-1).type, 'response.incomplete');
});

test('a conversation: by id, by items, and what is forgotten', async () => {
  const first = await served.openai.responses.create({ ...greedy, input: h.fact });
  const second = await served.openai.responses.create({
    ...greedy,
    previous_response_id: first.id,
    input: h.question,
  });
  assert.equal(second.previous_response_id, first.id);
  // The same with everything sent by the client.
  const by_items = await served.openai.responses.create({
    ...greedy,
    input: [
      { role: 'user', content: h.fact },
      ...first.output,
      { role: 'user', content: h.question },
    ],
  });
  assert.equal(second.output_text, by_items.output_text);
  assert.equal(second.usage.input_tokens, by_items.usage.input_tokens);
  const by_reference = await served.openai.responses.create({
    ...greedy,
    input: [
      { role: 'user', content: h.fact },
      { type: 'item_reference', id: first.output[0].id },
      { role: 'user', content: h.question },
    ],
  });
  assert.equal(by_reference.usage.input_tokens, by_items.usage.input_tokens);

  const again = await served.openai.responses.retrieve(first.id);
  assert.deepEqual(again.output, first.output);
  assert.deepEqual(again.usage, first.usage);
  await served.openai.responses.delete(first.id);
  const not_found = (e) => e instanceof OpenAI.NotFoundError;
  await assert.rejects(served.openai.responses.retrieve(first.id), not_found);
  await assert.rejects(served.openai.responses.delete(first.id), not_found);
  await assert.rejects(
    served.openai.responses.create({
      ...greedy,
      previous_response_id: first.id,
      input: h.question,
    }),
    (e) => e instanceof OpenAI.APIError && e.param === 'previous_response_id',
  );
});

test('what is not to be stored is not', async () => {
  const response = await served.openai.responses.create({
    ...greedy,
    store: false,
    input: h.needle,
  });
  await assert.rejects(
    served.openai.responses.retrieve(response.id),
    (e) => e instanceof OpenAI.NotFoundError,
  );
});

test('tokens are counted as they are used', async () => {
  const request = { model: h.model, input: h.needle, instructions: 'Be kind.', tools: [weather_tool] };
  const counted = await served.openai.responses.inputTokens.count(request);
  const response = await served.openai.responses.create({ ...greedy, ...request });
  assert.equal(counted.input_tokens, response.usage.input_tokens);
});

for (const choice of ['required', { type: 'function', name: 'get_weather' }]) {
  const name = typeof choice === 'string' ? choice : 'named';
  test(`a function call, ${name}: as a whole and as a stream`, async () => {
    const request = { ...greedy, input: h.needle, tools: [weather_tool], tool_choice: choice };
    const response = await served.openai.responses.create(request);
    const call = response.output.find((item) => item.type === 'function_call');
    assert.equal(call.name, 'get_weather');
    assert.deepEqual(Object.keys(JSON.parse(call.arguments)), ['city']);
    const events = await h.collect(
      await served.openai.responses.create({ ...request, stream: true }),
    );
    const done = events.find((e) => e.type === 'response.function_call_arguments.done');
    assert.equal(done.arguments, call.arguments);
    const deltas = events.filter((e) => e.type === 'response.function_call_arguments.delta');
    assert.equal(deltas.map((e) => e.delta).join(''), call.arguments);
  });
}

test('a function call of its own accord, and its output', async () => {
  const input = [{ role: 'user', content: h.weather_question }];
  const request = { ...greedy, tools: [weather_tool] };
  const response = await served.openai.responses.create({ ...request, input });
  const call = response.output.find((item) => item.type === 'function_call');
  assert.deepEqual(JSON.parse(call.arguments), { city: 'Paris' });
  const output = { type: 'function_call_output', call_id: call.call_id, output: '{"sky": "clear"}' };
  const by_items = await served.openai.responses.create({
    ...request,
    input: [...input, ...response.output, output],
  });
  const by_id = await served.openai.responses.create({
    ...request,
    previous_response_id: response.id,
    input: [output],
  });
  assert.equal(by_items.status, 'completed');
  assert.equal(by_id.output_text, by_items.output_text);
});

test('an answer that follows a JSON schema', async () => {
  const schema = {
    type: 'object',
    properties: {
      name: { type: 'string', maxLength: 20 },
      kind: { type: 'string', enum: ['pass key', 'room number'] },
      values: { type: 'array', items: { type: 'integer' }, maxItems: 3 },
    },
    required: ['name', 'kind', 'values'],
    additionalProperties: false,
  };
  const response = await served.openai.responses.parse({
    model: h.model,
    temperature: 0,
    max_output_tokens: 300,
    input: h.needle,
    text: { format: { type: 'json_schema', name: 'fact', strict: true, schema } },
  });
  const parsed = response.output_parsed;
  assert.deepEqual(Object.keys(parsed), ['name', 'kind', 'values']);
  assert.ok(['pass key', 'room number'].includes(parsed.kind));
  assert.ok(parsed.values.every(Number.isInteger));
});

test('reasoning is an item of its own', async () => {
  const request = {
    ...greedy,
    max_output_tokens: 200,
    input: h.needle,
    reasoning: { effort: 'high' },
  };
  const response = await served.openai.responses.create(request);
  assert.equal(response.output[0].type, 'reasoning');
  const [{ text }] = response.output[0].content;
  assert.ok(text.length > 0);
  assert.ok(response.usage.output_tokens_details.reasoning_tokens > 0);
  const events = await h.collect(
    await served.openai.responses.create({ ...request, stream: true }),
  );
  const deltas = events.filter((e) => e.type === 'response.reasoning_text.delta');
  assert.equal(deltas.map((e) => e.delta).join(''), text);
  // What came out goes in again.
  const next = await served.openai.responses.create({
    ...greedy,
    input: [...h.needle, ...response.output, { role: 'user', content: h.question }],
  });
  assert.equal(next.status, 'completed');
});

test('what an agent sends', async () => {
  const response = await served.openai.responses.create({
    model: h.model,
    instructions: 'You are a coding agent.',
    input: [
      { type: 'message', role: 'developer', content: [{ type: 'input_text', text: 'Be short.' }] },
      { type: 'message', role: 'user', content: [{ type: 'input_text', text: h.fact }] },
      { type: 'message', role: 'user', content: [{ type: 'input_text', text: h.question }] },
    ],
    tools: [weather_tool, { type: 'web_search' }],
    tool_choice: 'auto',
    parallel_tool_calls: false,
    reasoning: null,
    store: false,
    include: ['reasoning.encrypted_content'],
    prompt_cache_key: 'x',
    text: { verbosity: 'low' },
  });
  assert.equal(response.status, 'completed');
  assert.deepEqual(
    response.tools.map((t) => t.type),
    ['function'],
    'tools that no one here runs are not offered',
  );
});

test('what cannot be done is refused, and named', async () => {
  for (const [param, wrong] of [
    ['input', { input: undefined }],
    ['input', { input: [] }],
    ['input', { input: [{ role: 'user', content: [{ type: 'input_image' }] }] }],
    ['input', { input: [{ type: 'item_reference', id: 'msg_x' }] }],
    ['tools', { tools: [{ type: 'code_interpreter', container: { type: 'auto' } }] }],
    ['tool_choice', { tools: [weather_tool], tool_choice: { type: 'function', name: 'other' } }],
    ['background', { background: true }],
    ['conversation', { conversation: 'conv_1' }],
    ['temperature', { temperature: 900 }],
    ['truncation', { truncation: 'auto' }],
    ['metadata', { metadata: { a: 7 } }],
  ]) {
    await assert.rejects(
      served.openai.responses.create({ ...greedy, input: h.needle, ...wrong }),
      (e) => {
        assert.ok(e instanceof OpenAI.BadRequestError, `${JSON.stringify(wrong)}: ${e}`);
        assert.ok(e.param?.startsWith(param), `${JSON.stringify(wrong)}: param ${e.param}`);
        return true;
      },
    );
  }
  await assert.rejects(
    served.openai.responses.create({ ...greedy, model: 'gpt-5', input: 'x' }),
    (e) => e instanceof OpenAI.NotFoundError,
  );
});
