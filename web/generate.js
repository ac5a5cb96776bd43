// One answer: the request made from a conversation, and the stream put into its node.
import { stream_chat } from './api.js';
import { path_of } from './store.js';

const kNumbers = [
  'temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'seed', 'presence_penalty',
  'frequency_penalty', 'repetition_penalty',
];

// The tools in a settings text: [] for none. Throws with what is wrong.
export function parse_tools(text) {
  if (text.trim() === '') return [];
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    throw new Error(`Tools are not JSON: ${error.message}`);
  }
  if (!Array.isArray(tools)) tools = [tools];
  // Bare functions are fine, too.
  tools = tools.map((t) => (t?.type === 'function' ? t : { type: 'function', function: t }));
  for (const tool of tools) {
    if (typeof tool.function?.name !== 'string') throw new Error('Every tool needs a "name".');
  }
  return tools;
}

function message_of(node) {
  if (node.role === 'tool') {
    return { role: 'tool', tool_call_id: node.tool_call_id, content: node.content };
  }
  const message = { role: node.role, content: node.content };
  if (node.tool_calls?.length) {
    message.tool_calls = node.tool_calls.map((call) => ({
      id: call.id,
      type: 'function',
      function: { name: call.name, arguments: call.arguments },
    }));
    if (node.reasoning) message.reasoning_content = node.reasoning;
  }
  return message;
}

// The request for the answer `node`: everything in front of it.
export function request_of(conversation, node, model) {
  const { settings } = conversation;
  const path = path_of(conversation);
  const before = path.slice(0, path.indexOf(node));
  const messages = before.filter((n) => !(n.role === 'assistant' && n.error && !n.content))
    .map(message_of);
  if (settings.system.trim()) messages.unshift({ role: 'system', content: settings.system });
  const body = {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
  };
  for (const name of kNumbers) if (settings[name] !== null) body[name] = settings[name];
  if (settings.thinking) body.chat_template_kwargs = { thinking: true };
  const tools = parse_tools(settings.tools);
  if (tools.length) body.tools = tools;
  return body;
}

// Streams an answer into `node`, calling `changed` as it grows. Never throws: what went wrong is in
// node.error. node.finish: stop, length, tool_calls, stopped (by the reader), error.
export async function generate(conversation, node, model, signal, changed) {
  const begun = performance.now();
  let first = null;
  let last = null;
  let deltas = 0;
  let thinking_until = null;
  try {
    for await (const chunk of stream_chat(request_of(conversation, node, model), signal)) {
      const now = performance.now();
      node.request ??= chunk.id;
      node.model ??= chunk.model;
      const choice = chunk.choices?.[0];
      const delta = choice?.delta ?? {};
      if (delta.reasoning_content || delta.content || delta.tool_calls) {
        first ??= now;
        last = now;
        ++deltas;
      }
      if (delta.reasoning_content) node.reasoning = (node.reasoning ?? '') + delta.reasoning_content;
      if (node.reasoning && thinking_until === null) {
        if (delta.content || delta.tool_calls) thinking_until = now;
        node.reasoning_ms = (thinking_until ?? now) - first;
      }
      if (delta.content) node.content += delta.content;
      for (const call of delta.tool_calls ?? []) add_call(node, call);
      if (choice?.finish_reason) node.finish = choice.finish_reason;
      node.stats = stats_of(chunk.usage ?? node.stats?.usage, begun, first, last, deltas);
      changed();
    }
  } catch (error) {
    if (error.name === 'AbortError') {
      node.finish = 'stopped';
    } else {
      node.finish = 'error';
      node.error = error.message;
      node.error_status = error.status ?? 0;
    }
  }
  node.finish ??= 'stop';
  changed();
}

function add_call(node, call) {
  node.tool_calls ??= [];
  const at = call.index ?? node.tool_calls.length;
  const known = (node.tool_calls[at] ??= { id: '', name: '', arguments: '' });
  if (call.id) known.id = call.id;
  if (call.function?.name) known.name += call.function.name;
  if (call.function?.arguments) known.arguments += call.function.arguments;
}

// Until the server says the usage (with the last chunk), tokens are what pieces came.
export function stats_of(usage, begun, first, last, deltas) {
  const tokens = usage?.completion_tokens ?? deltas;
  const ms = first === null ? 0 : last - first;
  return {
    usage,
    tokens,
    first_ms: first === null ? null : first - begun,
    // Pieces that came all at once say nothing about the speed.
    rate: ms > 5 && tokens > 1 ? ((tokens - 1) * 1000) / ms : null,
  };
}
