// Starts `fathom serve` for tests that are clients of it, on a port of its own, and ends it again.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import path from 'node:path';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

// The program under test: FATHOM_BINARY (ctest sets it), or what `make` builds.
export function binary() {
  const file = process.env.FATHOM_BINARY ?? path.join(root, 'build/bin/fathom');
  if (!existsSync(file)) throw new Error(`${file} does not exist: build it, or set FATHOM_BINARY`);
  return file;
}

// Resolves once the server says that it listens. `args` are further flags of `fathom serve`;
// `checkpoint` is a folder below the repository's root.
// {url, log(), stop()}: `stop` sends SIGTERM and resolves to the exit code (or the signal's name).
export async function start_server({ args = [], checkpoint = 'models/small', seconds = 60 } = {}) {
  const child = spawn(
    binary(),
    ['serve', '--ckpt-path', path.join(root, checkpoint), '--port', '0', ...args],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let text = '';
  // A test run that dies takes its server along.
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const ended = new Promise((resolve) => {
    child.once('exit', (code, signal) => {
      process.off('exit', kill);
      resolve(code ?? signal);
    });
  });
  const url = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      kill();
      reject(new Error(`the server does not listen after ${seconds} s:\n${text}`));
    }, seconds * 1000);
    const read = (chunk) => {
      text += chunk;
      const line = /listening on (http:\/\/\S+)/.exec(text);
      if (line) {
        clearTimeout(timer);
        resolve(line[1]);
      }
    };
    child.stdout.setEncoding('utf8').on('data', read);
    child.stderr.setEncoding('utf8').on('data', read);
    child.once('error', reject);
    ended.then((code) => {
      clearTimeout(timer);
      reject(new Error(`the server ended with ${code} before it listened:\n${text}`));
    });
  });
  return {
    url,
    log: () => text,
    async stop() {
      child.kill('SIGTERM');
      return ended;
    },
  };
}
