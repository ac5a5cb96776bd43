// A server that guesses tokens ahead says the same as one that does not, whatever is asked.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as h from './helpers.mjs';

const plain = h.serve();
const drafting = h.serve(['--speculative-tokens', '3', '--speculative-always']);

const story = [{ role: 'user', content: 'Tell me a story about a fox.' }];
const chat = {
  'a fact, greedy': { messages: h.needle, temperature: 0, logprobs: true, top_logprobs: 3 },
  'a story, drawn': { messages: story, temperature: 0.8, seed: 5, n: 2 },
  'a story with rules': {
    messages: story,
    temperature: 0,
    stop: ['.'],
    frequency_penalty: 0.5,
    logit_bias: { 17: 2 },
  },
  'a form': {
    messages: [{ role: 'user', content: h.weather_question }],
    temperature: 0,
    response_format: {
      type: 'json_schema',
      json_schema: { name: 'weather', schema: h.weather_schema, strict: true },
    },
  },
  'a tool call': {
    messages: [{ role: 'user', content: h.weather_question }],
    temperature: 0,
    tool_choice: 'required',
    tools: [{ type: 'function', function: { name: 'get_weather', parameters: h.weather_schema } }],
  },
};

// What was generated, without names of calls, which are random.
const said = (choices) =>
  choices.map(({ finish_reason, logprobs, message }) => ({
    finish_reason,
    logprobs,
    content: message.content,
    calls: message.tool_calls?.map((call) => call.function),
  }));

for (const [name, ask] of Object.entries(chat)) {
  test(`chat: ${name}`, async () => {
    const body = { model: h.model, max_completion_tokens: 40, ...ask };
    const want = await plain.openai.chat.completions.create(body);
    const got = await drafting.openai.chat.completions.create(body);
    assert.deepEqual(said(got.choices), said(want.choices));
    assert.equal(got.usage.completion_tokens, want.usage.completion_tokens);
    const details = got.usage.completion_tokens_details;
    assert.ok(details.accepted_prediction_tokens + details.rejected_prediction_tokens > 0);
  });
}

test('chat: a stream', async () => {
  const body = { model: h.model, messages: h.needle, temperature: 0, max_tokens: 40, stream: true };
  const text = async ({ openai }) =>
    (await h.collect(await openai.chat.completions.create(body)))
      .map((chunk) => chunk.choices[0]?.delta?.content ?? '')
      .join('');
  assert.equal(await text(plain), h.answer);
  assert.equal(await text(drafting), h.answer);
});

test('responses and completions', async () => {
  const input = `${h.fact} ${h.question}`;
  const answers = async ({ openai }) => [
    (await openai.responses.create({ model: h.model, input, temperature: 0, max_output_tokens: 40 }))
      .output_text,
    (await openai.completions.create({ model: h.model, prompt: 'Once', temperature: 0, max_tokens: 40 }))
      .choices[0].text,
  ];
  assert.deepEqual(await answers(drafting), await answers(plain));
  assert.ok((await h.metric(drafting.url, 'vllm:spec_decode_num_accepted_tokens_total')) > 20);
});
