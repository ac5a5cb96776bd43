// Talking to the server: the key, errors that say what to do, the stream of an answer.
import { read_events } from './sse.js';

const kKeyName = 'fathom.key'; // in this tab's session storage: gone with the tab

// A request that failed. `status` 0: the server was not reached or the connection broke.
export class ApiError extends Error {
  constructor(message, status, retry_after = null) {
    super(message);
    this.status = status;
    this.retry_after = retry_after;
  }
}

// Whether a header can carry it.
export const is_key = (text) => /^[\x21-\x7e]+$/.test(text);

export function set_key(key) {
  sessionStorage.setItem(kKeyName, key);
}

// Asked for a key when the server wants one; returns false when the reader gives none.
let ask_for_key = async () => false;
export function on_key_needed(ask) {
  ask_for_key = ask;
}

async function error_of(response) {
  const text = await response.text().catch(() => '');
  let message = text.slice(0, 500);
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // Not OpenAI's shape (a proxy's page, perhaps): shown as it is.
  }
  const after = Number(response.headers.get('retry-after')) || null;
  return new ApiError(message || response.statusText, response.status, after);
}

// fetch that asks for a key as often as the server refuses the one it got.
async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(kKeyName);
    const authorization = key ? { authorization: `Bearer ${key}` } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...authorization } });
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ApiError('The server cannot be reached. Is it still running?', 0);
    }
    if (response.status === 401) {
      // Another request's refusal may have brought a new key while this one was under way.
      if (sessionStorage.getItem(kKeyName) !== key || (await ask_for_key())) continue;
    }
    if (!response.ok) throw await error_of(response);
    return response;
  }
}

export async function get_json(path) {
  return (await request(path)).json();
}

// The chunks of a streamed chat completion. Throws ApiError for an error event as well, and for a
// stream that ends without its [DONE].
export async function* stream_chat(body, signal) {
  const response = await request('v1/chat/completions', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal,
  });
  try {
    for await (const event of read_events(response)) {
      if (event.data === '[DONE]') return;
      const chunk = JSON.parse(event.data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? 'the answer failed', 500);
      yield chunk;
    }
  } catch (error) {
    if (error.name === 'AbortError' || error instanceof ApiError) throw error;
    throw new ApiError(`The connection broke: ${error.message}`, 0);
  }
  throw new ApiError('The connection ended before the answer did.', 0);
}
