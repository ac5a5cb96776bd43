// What agents do with Anthropic's SDK: its tool runner, messages of every role, answers begun.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { betaTool } from '@anthropic-ai/sdk/helpers/beta/json-schema';
import * as h from './helpers.mjs';

const served = h.serve();
const greedy = { model: h.model, max_tokens: 60, temperature: 0 };

for (const stream of [false, true]) {
  test(`the tool runner${stream ? ', streamed' : ''}`, async () => {
    const calls = [];
    const get_weather = betaTool({
      name: 'get_weather',
      description: 'Get the weather of a city',
      inputSchema: h.weather_schema,
      run: ({ city }) => {
        calls.push(city);
        return `It rains in ${city}.`;
      },
    });
    const runner = served.anthropic.beta.messages.toolRunner({
      ...greedy,
      messages: [{ role: 'user', content: h.weather_question }],
      tools: [get_weather],
      max_iterations: 2,
      stream,
    });
    let turns = 0;
    for await (const turn of runner) {
      turns += 1;
      if (stream) for await (const event of turn) assert.ok(event.type);
    }
    assert.equal(calls[0], 'Paris');
    assert.equal(turns, 2);
  });
}

test('instructions in the middle and last', async () => {
  const messages = [
    { role: 'user', content: [{ type: 'text', text: `${h.fact} ${h.question}` }] },
    { role: 'system', content: [{ type: 'text', text: 'Available agent types: none.' }] },
  ];
  const message = await served.anthropic.beta.messages.create({
    ...greedy,
    messages,
    betas: ['mid-conversation-tool-changes-2026-07-01', 'unheard-of-2030-01-01'],
  });
  assert.equal(message.type, 'message');
  const { input_tokens } = await served.anthropic.beta.messages.countTokens({
    model: h.model,
    messages,
  });
  const { usage } = message;
  assert.equal(input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
});

test('an answer that the client begins is continued', async () => {
  const message = await served.anthropic.messages.create({
    ...greedy,
    messages: [...h.needle, { role: 'assistant', content: 'The pass key of Alice is ' }],
  });
  assert.match(message.content[0].text, /^48213/);
});

test('models have what both SDKs read', async () => {
  const models = await h.collect(await served.anthropic.models.list());
  assert.equal(models.length, 1);
  const [model] = models;
  assert.equal(model.type, 'model');
  assert.equal(model.id, h.model);
  assert.equal(model.display_name, h.model);
  assert.ok(Date.parse(model.created_at) > 0);
  assert.ok(model.max_input_tokens > 0);
  const same = (await served.openai.models.list()).data[0];
  assert.equal(same.object, 'model');
  assert.equal(same.context_length, model.max_input_tokens);
});

test('what is too long is said in words that agents look for', async () => {
  const messages = [{ role: 'user', content: 'a b '.repeat(9000) }];
  await assert.rejects(served.anthropic.messages.create({ ...greedy, messages }), (e) => {
    assert.ok(e instanceof Anthropic.BadRequestError);
    assert.match(e.error.error.message, /^prompt is too long: \d+ tokens > \d+ maximum/);
    return true;
  });
});

test('endpoints that are not there say so in the shape of the protocol', async () => {
  await assert.rejects(
    served.anthropic.messages.batches.create({ requests: [] }),
    (e) => e instanceof Anthropic.NotFoundError && /no batches/.test(e.error.error.message),
  );
});
