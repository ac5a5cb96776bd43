// Chat completions through the npm client `openai`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as h from './helpers.mjs';

const served = h.serve();
const greedy = { model: h.model, temperature: 0, max_completion_tokens: 60 };
const weather_tool = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'Get the weather of a city',
    parameters: h.weather_schema,
    strict: true,
  },
};

test('models', async () => {
  const list = await served.openai.models.list();
  assert.equal(list.data[0].id, h.model);
  assert.equal((await served.openai.models.retrieve(h.model)).object, 'model');
});

test('a whole answer', async () => {
  const reply = await served.openai.chat.completions.create({ ...greedy, messages: h.needle });
  assert.equal(reply.object, 'chat.completion');
  assert.equal(reply.model, h.model);
  assert.equal(reply.choices[0].message.role, 'assistant');
  assert.equal(reply.choices[0].message.content, h.answer);
  assert.equal(reply.choices[0].finish_reason, 'stop');
  const { usage } = reply;
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
});

test('a stream says the same, with usage at its end', async () => {
  const stream = await served.openai.chat.completions.create({
    ...greedy,
    messages: h.needle,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = await h.collect(stream);
  const text = chunks.map((c) => c.choices[0]?.delta?.content ?? '').join('');
  assert.equal(text, h.answer);
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.ok(chunks.at(-1).usage.completion_tokens > 3);
  assert.equal(chunks.at(-2).choices[0].finish_reason, 'stop');
  assert.equal(new Set(chunks.map((c) => c.id)).size, 1);
});

// How many tokens an event carries is the scheduler's affair: on a busy machine several are ready
// when the writer gets its turn. An answer of hundreds never comes as one piece.
test('an answer is sent while it is being written', async () => {
  const stream = await served.openai.chat.completions.create({
    ...greedy,
    messages: h.long_story,
    max_tokens: 300,
    ignore_eos: true,
    stream: true,
  });
  const chunks = await h.collect(stream);
  assert.ok(chunks.filter((c) => c.choices[0]?.delta?.content).length > 1);
});

test('usage is not sent unasked', async () => {
  const stream = await served.openai.chat.completions.create({
    ...greedy,
    messages: h.needle,
    stream: true,
  });
  for (const chunk of await h.collect(stream)) assert.ok(!chunk.usage);
});

test('a prompt seen before comes from the cache', async () => {
  const long = 'The house number of Emma is 77. '.repeat(40);
  const messages = [{ role: 'user', content: `${long}${h.fact} ${h.question}` }];
  const first = await served.openai.chat.completions.create({ ...greedy, messages });
  const again = await served.openai.chat.completions.create({ ...greedy, messages });
  assert.equal(again.choices[0].message.content, first.choices[0].message.content);
  assert.ok(again.usage.prompt_tokens_details.cached_tokens > 200);
});

for (const choice of ['required', { type: 'function', function: { name: 'get_weather' } }]) {
  const name = typeof choice === 'string' ? choice : 'named';
  test(`a tool call, ${name}: as a whole and as a stream`, async () => {
    const request = {
      ...greedy,
      messages: h.needle, // it would rather answer
      tools: [weather_tool],
      tool_choice: choice,
    };
    const reply = await served.openai.chat.completions.create(request);
    const [call] = reply.choices[0].message.tool_calls;
    assert.equal(call.type, 'function');
    assert.equal(call.function.name, 'get_weather');
    const input = JSON.parse(call.function.arguments);
    assert.deepEqual(Object.keys(input), ['city']);
    assert.equal(typeof input.city, 'string');

    const stream = served.openai.chat.completions.stream(request);
    const streamed = (await stream.finalChatCompletion()).choices[0];
    assert.equal(streamed.message.tool_calls[0].function.name, 'get_weather');
    assert.equal(streamed.message.tool_calls[0].function.arguments, call.function.arguments);
    assert.equal(streamed.finish_reason, reply.choices[0].finish_reason);
  });
}

test('a tool call of its own accord, and its result', async () => {
  const messages = [{ role: 'user', content: h.weather_question }];
  const request = { ...greedy, messages, tools: [weather_tool] };
  const reply = await served.openai.chat.completions.create(request);
  assert.equal(reply.choices[0].finish_reason, 'tool_calls');
  const said = reply.choices[0].message;
  assert.deepEqual(JSON.parse(said.tool_calls[0].function.arguments), { city: 'Paris' });

  const stream = served.openai.chat.completions.stream(request);
  const streamed = (await stream.finalChatCompletion()).choices[0].message;
  assert.deepEqual(streamed.tool_calls[0].function, {
    ...said.tool_calls[0].function,
    parsed_arguments: { city: 'Paris' },
  });

  messages.push(said);
  messages.push({ role: 'tool', tool_call_id: said.tool_calls[0].id, content: '{"sky": "clear"}' });
  const told = await served.openai.chat.completions.create(request);
  assert.equal(typeof told.choices[0].message.content, 'string');
  assert.equal(told.choices[0].finish_reason, 'stop');
});

test('tools that may not be called', async () => {
  const reply = await served.openai.chat.completions.create({
    ...greedy,
    messages: h.needle,
    tools: [weather_tool],
    tool_choice: 'none',
  });
  assert.equal(reply.choices[0].message.tool_calls, undefined);
});

test('an answer that follows a JSON schema', async () => {
  const schema = {
    type: 'object',
    properties: {
      owner: { type: 'string', maxLength: 20 },
      kind: { type: 'string', enum: ['pass key', 'room number'] },
      digits: { type: 'array', items: { type: 'integer' }, minItems: 1, maxItems: 3 },
      place: {
        type: 'object',
        properties: { known: { type: 'boolean' }, floor: { type: ['integer', 'null'] } },
        required: ['known', 'floor'],
        additionalProperties: false,
      },
    },
    required: ['owner', 'kind', 'digits', 'place'],
    additionalProperties: false,
  };
  const request = {
    model: h.model,
    max_completion_tokens: 400,
    messages: h.needle,
    response_format: { type: 'json_schema', json_schema: { name: 'fact', strict: true, schema } },
  };
  for (const seed of [1, 2, 3]) {
    const reply = await served.openai.chat.completions.parse({ ...request, seed });
    const { parsed } = reply.choices[0].message;
    assert.deepEqual(Object.keys(parsed), ['owner', 'kind', 'digits', 'place']);
    assert.equal(typeof parsed.owner, 'string');
    assert.ok(['pass key', 'room number'].includes(parsed.kind));
    assert.ok(parsed.digits.length >= 1 && parsed.digits.length <= 3);
    assert.ok(parsed.digits.every(Number.isInteger));
    assert.equal(typeof parsed.place.known, 'boolean');
    assert.ok(parsed.place.floor === null || Number.isInteger(parsed.place.floor));
  }
});

test('an answer that is a JSON object', async () => {
  const reply = await served.openai.chat.completions.create({
    model: h.model,
    temperature: 0,
    max_completion_tokens: 300,
    messages: [{ role: 'user', content: `${h.fact} Answer as JSON. ${h.question}` }],
    response_format: { type: 'json_object' },
  });
  if (reply.choices[0].finish_reason === 'stop') {
    assert.equal(typeof JSON.parse(reply.choices[0].message.content), 'object');
  } else {
    assert.equal(reply.choices[0].finish_reason, 'length');
    assert.match(reply.choices[0].message.content, /^\s*\{/);
  }
});

test('a schema that cannot be kept to is refused', async () => {
  const schema = {
    type: 'object',
    properties: { a: { type: 'string', pattern: '^(x)\\1' } },
    required: ['a'],
    additionalProperties: false,
  };
  await assert.rejects(
    served.openai.chat.completions.create({
      ...greedy,
      messages: h.needle,
      response_format: { type: 'json_schema', json_schema: { name: 'x', strict: true, schema } },
    }),
    { status: 400, type: 'invalid_request_error' },
  );
});

test('several choices', async () => {
  const request = { model: h.model, n: 3, seed: 5, temperature: 1, max_completion_tokens: 20 };
  const reply = await served.openai.chat.completions.create({ ...request, messages: h.long_story });
  assert.deepEqual(
    reply.choices.map((c) => c.index),
    [0, 1, 2],
  );
  assert.ok(new Set(reply.choices.map((c) => c.message.content)).size > 1);
});

test('log-probabilities', async () => {
  const reply = await served.openai.chat.completions.create({
    ...greedy,
    messages: h.needle,
    logprobs: true,
    top_logprobs: 3,
  });
  const { content } = reply.choices[0].logprobs;
  assert.equal(content.map((t) => t.token).join(''), h.answer + '<｜end▁of▁sentence｜>');
  assert.equal(content.length, reply.usage.completion_tokens);
  for (const t of content) {
    assert.ok(t.logprob <= 0);
    assert.equal(t.top_logprobs.length, 3);
    assert.equal(t.top_logprobs[0].token, t.token, 'greedy takes the first');
    assert.equal(Buffer.from(t.bytes).toString(), t.token);
  }
});

test('stop texts end the answer and are not part of it', async () => {
  const reply = await served.openai.chat.completions.create({
    ...greedy,
    messages: h.needle,
    stop: [' of Alice'],
  });
  assert.equal(reply.choices[0].message.content, 'The pass key');
  assert.equal(reply.choices[0].finish_reason, 'stop');
});

test('the same seed says the same', async () => {
  const ask = async (seed) => {
    const reply = await served.openai.chat.completions.create({
      model: h.model,
      messages: h.long_story,
      temperature: 1,
      seed,
      max_completion_tokens: 30,
    });
    assert.equal(reply.choices[0].finish_reason, 'length');
    return reply.choices[0].message.content;
  };
  const [a, b, c] = await Promise.all([ask(7), ask(7), ask(8)]);
  assert.equal(a, b);
  assert.notEqual(a, c);
});

test('reasoning is told apart', async () => {
  const request = {
    ...greedy,
    max_completion_tokens: 200,
    messages: h.needle,
    reasoning_effort: 'high',
  };
  const reply = await served.openai.chat.completions.create(request);
  const { message } = reply.choices[0];
  assert.equal(typeof message.reasoning_content, 'string');
  assert.ok(message.reasoning_content.length > 0);
  assert.doesNotMatch(message.reasoning_content + (message.content ?? ''), /<\/?think>/);
  const stream = await served.openai.chat.completions.create({ ...request, stream: true });
  const chunks = await h.collect(stream);
  const streamed = chunks.map((c) => c.choices[0]?.delta?.reasoning_content ?? '').join('');
  assert.equal(streamed, message.reasoning_content);
});

test('a client that goes away frees the engine', async () => {
  const before = await h.aborted(served.url);
  const stream = await served.openai.chat.completions.create({
    model: h.model,
    messages: h.long_story,
    max_completion_tokens: 6000,
    ignore_eos: true,
    stream: true,
  });
  for await (const chunk of stream) {
    // The first chunk only has the role: with text, the engine is at work.
    if (chunk.choices[0]?.delta?.content) break; // the client closes the connection
  }
  await h.until(async () => (await h.aborted(served.url)) === before + 1, 'the request is aborted');
  const running = () => h.metric(served.url, 'vllm:num_requests_running');
  await h.until(async () => (await running()) === 0, 'nothing runs any more');
});
