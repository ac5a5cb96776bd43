// What the tests of all clients share: the server under test, clients of it, questions that the
// bundled model can answer.
import { after, before } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
import { start_server } from '../support_node/server.mjs';

export const model = 'small';
export const fact = 'The pass key of Alice is 48213. The room number of Hugo is 2291.';
export const question = 'What is the pass key of Alice?';
export const answer = 'The pass key of Alice is 48213.';
export const needle = [{ role: 'user', content: `${fact} ${question}` }];

export const weather_schema = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
export const weather_question = 'What is the weather in Paris?';

// An answer that goes on for as long as a test needs it to (and no longer than a few seconds).
export const long_story = [{ role: 'user', content: 'Tell me a long story about a cat and a dog.' }];

// Starts a server before the tests of a file and stops it behind them. What is returned is filled
// in by then.
export function serve(args = []) {
  const served = {};
  before(async () => {
    const server = await start_server({ args: ['--served-model-name', model, ...args] });
    served.server = server;
    served.url = server.url;
    // No retries: what fails is to be seen.
    served.openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
    served.anthropic = new Anthropic({ baseURL: server.url, apiKey: 'none', maxRetries: 0 });
  });
  after(async () => {
    if (!served.server) return;
    const code = await served.server.stop();
    if (code !== 0) throw new Error(`the server ended with ${code}:\n${served.server.log()}`);
  });
  return served;
}

// The sum of all samples of a metric.
export async function metric(url, name) {
  const text = await (await fetch(`${url}/metrics`)).text();
  const samples = text
    .split('\n')
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
  if (samples.length === 0) throw new Error(`no metric ${name} in\n${text}`);
  return samples.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
}

// Requests that ended because their client went away. An answer that ended by itself is not one.
export async function aborted(url) {
  const text = await (await fetch(`${url}/metrics`)).text();
  const line = /^vllm:request_success_total\{[^}]*finished_reason="abort"[^}]*\} (\S+)$/m.exec(text);
  return line ? Number(line[1]) : 0;
}

// Resolves when `condition` does so to true; rejects after `seconds`.
export async function until(condition, what, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not after ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export async function collect(stream) {
  const all = [];
  for await (const event of stream) all.push(event);
  return all;
}
