// Text completions through the npm client `openai`.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as h from './helpers.mjs';

const served = h.serve();
const greedy = { model: h.model, temperature: 0, max_tokens: 12 };
const prompt = 'Once upon a time, there was a';

test('a text goes on', async () => {
  const reply = await served.openai.completions.create({ ...greedy, prompt });
  assert.equal(reply.object, 'text_completion');
  assert.ok(reply.choices[0].text.length > 0);
  assert.equal(reply.usage.completion_tokens, 12);
  assert.equal(reply.choices[0].finish_reason, 'length');
  const stream = await served.openai.completions.create({ ...greedy, prompt, stream: true });
  const text = (await h.collect(stream)).map((c) => c.choices[0]?.text ?? '').join('');
  assert.equal(text, reply.choices[0].text);
});

test('echo and log-probabilities', async () => {
  const plain = await served.openai.completions.create({ ...greedy, prompt });
  const reply = await served.openai.completions.create({
    ...greedy,
    prompt,
    echo: true,
    logprobs: 2,
  });
  const [choice] = reply.choices;
  assert.equal(choice.text, prompt + plain.choices[0].text);
  const { tokens, token_logprobs, top_logprobs, text_offset } = choice.logprobs;
  const { prompt_tokens, completion_tokens } = reply.usage;
  assert.equal(tokens.length, prompt_tokens + completion_tokens);
  // The token that ends the answer has its place behind the text and is no part of it.
  const ended = choice.finish_reason === 'stop' ? 1 : 0;
  const written = tokens.slice(0, tokens.length - ended);
  assert.equal(written.join(''), choice.text);
  assert.equal(token_logprobs[0], null, 'nothing is in front of the first token');
  assert.ok(token_logprobs.slice(1).every((p) => p <= 0));
  assert.equal(top_logprobs.length, tokens.length);
  assert.equal(text_offset[0], 0);
  assert.equal(text_offset[written.length - 1] + written.at(-1).length, choice.text.length);
  if (ended) assert.equal(text_offset.at(-1), choice.text.length);
});

test('a list of more prompts than may wait', async () => {
  const prompts = Array.from({ length: 300 }, (_, i) => `${i} is`);
  const reply = await served.openai.completions.create({ ...greedy, prompt: prompts, max_tokens: 1 });
  assert.deepEqual(
    reply.choices.map((c) => c.index),
    prompts.map((_, i) => i),
  );
});

test('prompts in a list, as texts and as tokens', async () => {
  const texts = await served.openai.completions.create({
    ...greedy,
    prompt: [prompt, 'The sun was'],
  });
  assert.deepEqual(
    texts.choices.map((c) => c.index),
    [0, 1],
  );
  const tokenize = async (text) => {
    const reply = await fetch(`${served.url}/tokenize`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: text }),
    });
    return (await reply.json()).tokens;
  };
  const tokens = await served.openai.completions.create({
    ...greedy,
    prompt: [await tokenize(prompt), await tokenize('The sun was')],
  });
  assert.deepEqual(
    tokens.choices.map((c) => c.text),
    texts.choices.map((c) => c.text),
  );
});
