// A server that plays a script, and programs in an environment of their own: no file of the user's,
// no network beyond this machine.
import { execFile, spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before } from 'node:test';

export const here = path.dirname(fileURLToPath(import.meta.url));
export const root = path.resolve(here, '../..');

// A call in the encoding of the bundled model's folder.
export const call = (name, args) =>
  `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>${name}<｜tool▁sep｜>${JSON.stringify(args)}` +
  '<｜tool▁call▁end｜><｜tool▁calls▁end｜>';

// Starts the scripted server before the tests of a file; `tokens_per_second` 0: as fast as it can.
export function play(script, { context = 131072, tokens_per_second = 0 } = {}) {
  const played = { log: () => '' };
  // For hooks of a test's own, which begin beside this one.
  let tell;
  played.ready = new Promise((resolve) => {
    tell = resolve;
  });
  before(async () => {
    played.home = await mkdtemp(path.join(tmpdir(), 'fathom-agents-'));
    const file = path.join(played.home, 'script.json');
    await writeFile(file, JSON.stringify(script));
    played.child = spawn(
      process.env.SCRIPTED_SERVER,
      [path.join(root, 'models/small'), file, String(context), String(tokens_per_second)],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    process.once('exit', () => played.child.kill('SIGKILL'));
    let text = '';
    played.log = () => text;
    played.url = await new Promise((resolve, reject) => {
      const read = (chunk) => {
        text += chunk;
        const line = /listening on (http:\/\/\S+)/.exec(text);
        if (line) resolve(line[1]);
      };
      played.child.stdout.setEncoding('utf8').on('data', read);
      played.child.stderr.setEncoding('utf8').on('data', read);
      played.child.once('exit', (code) => reject(new Error(`the server ended (${code}):\n${text}`)));
    });
    tell();
  });
  after(async () => {
    played.child?.kill('SIGTERM');
    if (played.home) await rm(played.home, { recursive: true, force: true, maxRetries: 5 });
  });
  return played;
}

// Runs a program below node_modules in a folder of its own below the test's, to its end: {code,
// stdout, stderr}.
export async function run_agent(played, program, args, { env = {}, input = '' } = {}) {
  const work = path.join(played.home, 'work');
  await mkdir(work, { recursive: true });
  return new Promise((resolve) => {
    const child = execFile(
      path.join(here, 'node_modules', program),
      args,
      {
        cwd: work,
        timeout: 540_000,
        maxBuffer: 64 << 20,
        env: {
          PATH: process.env.PATH,
          HOME: played.home,
          // Whatever is not on this machine is refused at once.
          HTTP_PROXY: 'http://127.0.0.1:9',
          HTTPS_PROXY: 'http://127.0.0.1:9',
          NO_PROXY: '127.0.0.1,localhost',
          ...env,
        },
      },
      (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }),
    );
    child.stdin.on('error', () => {}); // a program may end without having read it
    child.stdin.end(input);
  });
}

// A file for agents to read, in the folder that they work in.
export async function write_note(played) {
  const work = path.join(played.home, 'work');
  await mkdir(work, { recursive: true });
  await writeFile(path.join(work, 'note.txt'), 'the word is plover\n');
}

// The requests that the server has logged, the newest last.
export const requests_of = (played) =>
  played
    .log()
    .split('\n')
    .filter((line) => line.startsWith('{"time"'))
    .map((line) => JSON.parse(line))
    .filter((line) => line.event === 'request');
