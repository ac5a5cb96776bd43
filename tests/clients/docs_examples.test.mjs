// Every example of docs/server.md does what the page says.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { essence, examples_of, page, run_example } from './docs_examples.mjs';
import * as h from './helpers.mjs';

const served = h.serve(['--keep-selection']);
const examples = examples_of(readFileSync(page, 'utf8'));
assert.ok(examples.length > 5, `${examples.length} examples in ${page}`);

for (const example of examples) {
  const name = example.code.split('\n')[0].slice(0, 90);
  test(`docs/server.md:${example.line + 1}: ${name}`, async () => {
    const output = await run_example(example, served.url);
    assert.deepEqual(essence(output), essence(example.expected));
  });
}
