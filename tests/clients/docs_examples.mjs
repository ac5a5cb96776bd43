// The examples of docs/server.md: taken out of the page, run, and compared with what it prints.
// As a program: node docs_examples.mjs URL [--write] runs them against a server that is already
// there; --write puts what it answered into the page.
import { execFile } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const here = path.dirname(fileURLToPath(import.meta.url));
export const page = path.resolve(here, '../../docs/server.md');
const documented_url = 'http://127.0.0.1:8000';
const run = promisify(execFile);

// A command goes on while a quote is open or a line ends in a backslash; what follows, up to the
// next "$ ", is its output.
function console_examples(lines, first_line) {
  const examples = [];
  for (let i = 0; i < lines.length; ) {
    if (!lines[i].startsWith('$ ')) throw new Error(`line ${first_line + i}: expected a command`);
    const start = i;
    let command = lines[i++].slice(2);
    while ((command.split("'").length % 2 === 0 || command.endsWith('\\')) && i < lines.length) {
      command += `\n${lines[i++]}`;
    }
    const output = i;
    while (i < lines.length && !lines[i].startsWith('$ ')) i += 1;
    examples.push({
      kind: 'console',
      code: command,
      line: first_line + start,
      output_lines: [first_line + output, first_line + i],
      expected: lines.slice(output, i).join('\n'),
    });
  }
  return examples;
}

// The examples in the order of the page. `output_lines` are those of the expected output, from and
// to (not included), counted from 0.
export function examples_of(text) {
  const lines = text.split('\n');
  const examples = [];
  let script = null;
  for (let i = 0; i < lines.length; i += 1) {
    const fence = /^```(\w+)$/.exec(lines[i]);
    if (!fence) continue;
    const begin = i + 1;
    i = lines.indexOf('```', begin);
    if (i < 0) throw new Error(`line ${begin}: a block without its end`);
    const block = lines.slice(begin, i);
    if (fence[1] === 'console') examples.push(...console_examples(block, begin));
    if (fence[1] === 'js') script = { kind: 'js', code: block.join('\n'), line: begin };
    if (fence[1] === 'text' && script) {
      examples.push({ ...script, output_lines: [begin, i], expected: block.join('\n') });
      script = null;
    }
  }
  return examples;
}

export async function run_example(example, url) {
  const code = example.code.replaceAll(documented_url, url);
  if (example.kind === 'console') {
    const { stdout } = await run('bash', ['-c', code], { timeout: 60_000 });
    return stdout.replace(/\s+$/, '');
  }
  // In this folder, where the clients are installed.
  const file = path.join(here, `example_${process.pid}_${example.line}.mjs`);
  await writeFile(file, code);
  try {
    const { stdout } = await run(process.execPath, [file], { timeout: 60_000 });
    return stdout.replace(/\s+$/, '');
  } finally {
    await rm(file);
  }
}

// Events of a stream, with neighbours of a kind as one: how many tokens come at once is a matter of
// time.
function join_events(text) {
  const events = [];
  const texts = (value) => {
    if (typeof value === 'string') return value;
    if (value === null || typeof value !== 'object') return '';
    // What kind of delta it is stands in each of them.
    return Object.entries(value)
      .map(([key, member]) => (key === 'type' ? '' : texts(member)))
      .join('');
  };
  for (const line of text.split('\n')) {
    if (!line.startsWith('data: ')) continue;
    if (line === 'data: [DONE]') {
      events.push({ type: 'done', text: '' });
      continue;
    }
    const data = JSON.parse(line.slice(6));
    const type = data.type ?? data.object;
    const said = texts(data.delta ?? data.choices?.map((c) => c.delta) ?? '');
    if (events.at(-1)?.type === type) events.at(-1).text += said;
    else events.push({ type, text: said });
  }
  return events;
}

// What must be the same in every run: not ids, times, what the cache already had, counts of
// metrics, and how a stream was cut.
export function essence(text) {
  if (/^data: /m.test(text)) return join_events(text);
  return text
    .replace(/\b(chatcmpl-|cmpl-|resp_|msg_|rs_|fc_|call_|toolu_|req_)[0-9a-f]+/g, '$1X')
    .replace(/"(created|created_at)":(\d+|"[^"]*Z")/g, '"$1":0')
    .replace(/"(cached_tokens|input_tokens|cache_read_input_tokens)":\d+/g, '"$1":0')
    .replace(/"system_fingerprint":"[^"]*"/g, '"system_fingerprint":"X"')
    .replace(/^((?:vllm|fathom):\S+) .*$/gm, '$1 N');
}

async function main(url, write) {
  const text = await readFile(page, 'utf8');
  const lines = text.split('\n');
  let different = 0;
  // From the last to the first: line numbers of those in front stay true.
  const results = [];
  for (const example of examples_of(text)) {
    results.push({ example, output: await run_example(example, url) });
  }
  for (const { example, output } of results.reverse()) {
    const same = JSON.stringify(essence(output)) === JSON.stringify(essence(example.expected));
    if (same) continue;
    different += 1;
    console.log(`line ${example.line}: ${example.code}\n${output}\n`);
    const [from, to] = example.output_lines;
    lines.splice(from, to - from, ...output.split('\n'));
  }
  if (write) await writeFile(page, lines.join('\n'));
  console.log(`${results.length} examples, ${different} ${write ? 'rewritten' : 'different'}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(process.argv[2] ?? documented_url, process.argv.includes('--write'));
}
