// Server-sent events out of a stream of bytes, wherever the network cuts it: inside a character,
// inside a field's name, between CR and LF.

export class SseParser {
  #decoder = new TextDecoder(); // drops a byte order mark
  #line = ''; // the beginning of a line
  #after_cr = false; // the last character was a CR: an LF now belongs to it
  #data = [];
  #type = '';

  // Takes bytes; returns the events that are complete by now: [{type, data}].
  push(bytes) {
    return this.push_text(this.#decoder.decode(bytes, { stream: true }));
  }

  push_text(text) {
    const events = [];
    let start = 0;
    for (let i = 0; i < text.length; ++i) {
      const c = text[i];
      if (c === '\n' && this.#after_cr) {
        this.#after_cr = false;
        start = i + 1;
        continue;
      }
      this.#after_cr = c === '\r';
      if (c !== '\n' && c !== '\r') continue;
      const event = this.#take_line(this.#line + text.slice(start, i));
      if (event) events.push(event);
      this.#line = '';
      start = i + 1;
    }
    this.#line += text.slice(start);
    return events;
  }

  #take_line(line) {
    if (line === '') {
      const event = this.#data.length
        ? { type: this.#type || 'message', data: this.#data.join('\n') }
        : null;
      this.#data = [];
      this.#type = '';
      return event;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return null; // a comment: keeps the connection alive
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (field === 'data') this.#data.push(value);
    else if (field === 'event') this.#type = value;
    return null;
  }
}

// The events of a fetch response, one by one.
export async function* read_events(response) {
  const parser = new SseParser();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
