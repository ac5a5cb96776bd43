// The agents under test, each set up as docs/server.md prints it, against any server: {home, url}.
import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import * as h from './helpers.mjs';

// The indented lines below a heading of docs/server.md, for the server at `url`.
async function printed(heading, url) {
  const page = await readFile(path.join(h.root, 'docs/server.md'), 'utf8');
  const section = page.split(`\n### ${heading}\n`)[1]?.split('\n#')[0];
  assert.ok(section, `docs/server.md has no section ${heading}`);
  const block = section.split('\n').filter((line) => line.startsWith('    ') || line === '');
  const text = block.map((line) => line.slice(4)).join('\n');
  return text.replaceAll('http://127.0.0.1:8000', url);
}

async function ended_well(running) {
  const result = await running;
  assert.equal(result.code, 0, `${result.stdout}\n${result.stderr}`);
  return result.stdout.trim();
}

// `codex exec`; `more` goes into its config.toml.
export async function codex(served, args, more = '') {
  const folder = path.join(served.home, '.codex');
  await mkdir(folder, { recursive: true });
  await writeFile(path.join(folder, 'config.toml'), `${await printed('Codex', served.url)}\n${more}`);
  return ended_well(h.run_agent(served, '.bin/codex', ['exec', '--skip-git-repo-check', ...args]));
}

// `claude -p`, with the variables that the page exports.
export async function claude(served, args) {
  const page = await printed('Claude Code', served.url);
  const exported = [...page.matchAll(/(\w+)=(\S+)/g)].map(([, name, value]) => [name, value]);
  assert.ok(exported.length >= 4, page);
  const program = '@anthropic-ai/claude-code-linux-x64/claude';
  return ended_well(
    h.run_agent(served, program, ['-p', ...args], { env: Object.fromEntries(exported) }),
  );
}

// `opencode run`.
export async function opencode(served, prompt) {
  const folder = path.join(served.home, '.config/opencode');
  await mkdir(folder, { recursive: true });
  const config = JSON.parse(await printed('opencode', served.url));
  await writeFile(path.join(folder, 'opencode.json'), JSON.stringify({ autoupdate: false, ...config }));
  return ended_well(
    h.run_agent(served, 'opencode-linux-x64-baseline/bin/opencode', ['run', prompt], {
      env: { OPENCODE_DISABLE_MODELS_FETCH: '1', OPENCODE_DISABLE_AUTOUPDATE: '1' },
    }),
  );
}
