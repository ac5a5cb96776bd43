// What a user of `fathom serve` gets, through HTTP, on the bundled model (medians of seven rounds):
//   tokens a second of 16 requests at once beside one at a time;
//   the wait for the first token of a short prompt while a long one is being read, in steps;
//   the wait for the first token of a long prompt, new and seen before.
// Usage: node bench/serving.mjs [flags of fathom serve]
import { execFileSync } from 'node:child_process';
import { binary, start_server } from '../tests/support_node/server.mjs';

const rounds = 7;
const long_prompt = 3000;
const short_prompt = 100;

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
const ms = (seconds) => `${(seconds * 1000).toFixed(1)} ms`;

// Token ids that no other prompt begins with.
function random_ids(count) {
  return Array.from({ length: count }, () => 100 + Math.floor(Math.random() * 3800));
}

// Seconds from the request to the first text of its answer.
async function first_token(url, prompt) {
  const begin = performance.now();
  const reply = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    body: JSON.stringify({ prompt, max_tokens: 4, temperature: 0, ignore_eos: true, stream: true }),
  });
  if (reply.status !== 200) throw new Error(`${reply.status}: ${await reply.text()}`);
  let seconds = null;
  for await (const chunk of reply.body) {
    seconds ??= (performance.now() - begin) / 1000;
    if (Buffer.from(chunk).includes('"error"')) throw new Error(Buffer.from(chunk).toString());
  }
  return seconds;
}

// Count and seconds of the steps that computed prompts, since the start.
async function prompt_steps(url) {
  const text = await (await fetch(`${url}/metrics`)).text();
  const sum = (name) =>
    [...text.matchAll(new RegExp(`^fathom:step_seconds_${name}\\{[^}]*kind="(?:prefill|mixed)".*\\} (\\S+)$`, 'gm'))]
      .reduce((total, match) => total + Number(match[1]), 0);
  return { count: sum('count'), seconds: sum('sum') };
}

async function throughput(url, at_once, requests) {
  const args = ['bench', 'serve', '--base-url', url, '--json', '--endpoint', 'completions'];
  const load = { 'num-prompts': requests, 'max-concurrency': at_once, 'random-input-len': 32, 'random-output-len': 128, seed: at_once + requests };
  for (const [name, value] of Object.entries(load)) args.push(`--${name}`, String(value));
  const report = JSON.parse(execFileSync(binary(), args));
  return report.total_tokens_per_second;
}

const server = await start_server({ args: ['--log-level', 'off', ...process.argv.slice(2)] });
const { url } = server;
await first_token(url, random_ids(long_prompt)); // warm

const one = [];
const many = [];
for (let i = 0; i < rounds; i += 1) {
  one.push(await throughput(url, 1, 8 + i));
  many.push(await throughput(url, 16, 64 + i));
}
const ratio = median(many.map((value, i) => value / one[i]));
console.log(`one request at a time ${median(one).toFixed(0)} tokens/s, 16 at once ${median(many).toFixed(0)}: ${ratio.toFixed(2)} times (median of pairs)`);

const waits = [];
const waits_in_steps = [];
for (let i = 0; i < rounds; i += 1) {
  const before = await prompt_steps(url);
  const long = first_token(url, random_ids(long_prompt));
  while ((await prompt_steps(url)).count === before.count); // its first step is over
  const wait = await first_token(url, random_ids(short_prompt));
  await long;
  const after = await prompt_steps(url);
  waits.push(wait);
  waits_in_steps.push((wait * (after.count - before.count)) / (after.seconds - before.seconds));
}
console.log(`first token of ${short_prompt} while ${long_prompt} are read: ${ms(median(waits))}, ${median(waits_in_steps).toFixed(2)} steps`);

const cold = [];
const hit = [];
for (let i = 0; i < rounds; i += 1) {
  const prompt = random_ids(long_prompt);
  cold.push(await first_token(url, prompt));
  hit.push(await first_token(url, [...prompt, ...random_ids(12)]));
}
const gain = median(cold.map((value, i) => value / hit[i]));
console.log(`first token of ${long_prompt}: new ${ms(median(cold))}, seen before and 12 more ${ms(median(hit))}: ${gain.toFixed(1)} times sooner`);

const code = await server.stop();
if (code !== 0) throw new Error(`the server ended with ${code}:\n${server.log()}`);
