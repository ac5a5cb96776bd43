// Conversations, kept in this browser. A conversation is a tree: editing a question or asking for
// another answer adds a branch beside the old one, and `pick` says which branch is shown.
//
//   conversation  {id, title, created, updated, settings, pick, nodes: {id: node}}
//   node          {id, parent, pick, role, content, ...}; parent null: the first message

const kIndex = 'fathom.conversations'; // ids, the most recent first
const kPrefix = 'fathom.conversation.';
const kDefaults = 'fathom.settings';
const kFormat = 'fathom.conversations.1';

export const kInitialSettings = {
  system: '',
  temperature: null, // null: what the server takes when nothing is said
  top_p: null,
  top_k: null,
  min_p: null,
  max_tokens: null,
  seed: null,
  presence_penalty: null,
  frequency_penalty: null,
  repetition_penalty: null,
  thinking: false,
  tools: '',
};

const new_id = () => Array.from(crypto.getRandomValues(new Uint8Array(8)),
  (byte) => byte.toString(16).padStart(2, '0')).join('');

function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? fallback;
  } catch {
    return fallback; // written by something else
  }
}

// Why the last save did not work, or null: storage may be full or off.
export let storage_problem = null;

function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    storage_problem = null;
  } catch {
    storage_problem = 'This browser keeps no more: export or delete conversations.';
  }
}

export const default_settings = () => ({ ...kInitialSettings, ...read(kDefaults, {}) });
export const save_default_settings = (settings) => write(kDefaults, settings);

export function new_conversation() {
  const now = Date.now();
  return {
    id: new_id(),
    title: '',
    created: now,
    updated: now,
    settings: default_settings(),
    pick: null,
    nodes: {},
  };
}

// Titles and ids of all, the most recent first.
export function list_conversations() {
  return read(kIndex, []).filter((entry) => typeof entry?.id === 'string');
}

export const load_conversation = (id) => check(read(kPrefix + id, null));

export function save_conversation(conversation) {
  write(kPrefix + conversation.id, conversation);
  const entry = { id: conversation.id, title: conversation.title, updated: conversation.updated };
  const others = list_conversations().filter((other) => other.id !== conversation.id);
  write(kIndex, [entry, ...others].sort((a, b) => b.updated - a.updated));
}

export function delete_conversation(id) {
  localStorage.removeItem(kPrefix + id);
  write(kIndex, list_conversations().filter((entry) => entry.id !== id));
}

export function export_conversations() {
  const conversations = list_conversations().map(({ id }) => load_conversation(id)).filter(Boolean);
  return JSON.stringify({ format: kFormat, conversations }, null, 1);
}

// Adds what is in an exported file; one that is there already is replaced. Returns how many.
export function import_conversations(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`not JSON: ${error.message}`);
  }
  if (file?.format !== kFormat || !Array.isArray(file.conversations)) {
    throw new Error(`not an export of this page (expected format ${kFormat})`);
  }
  const conversations = file.conversations.map(check);
  if (conversations.includes(null)) throw new Error('a conversation in it is damaged');
  for (const conversation of conversations) {
    save_conversation(conversation);
    if (storage_problem) throw new Error(storage_problem);
  }
  return conversations.length;
}

const kRoles = ['user', 'assistant', 'tool'];

// A conversation of which the page can rely on the shape, or null. What is stored may come from a
// file or an earlier version.
function check(given) {
  if (typeof given?.id !== 'string' || !/^[0-9a-f]{16}$/.test(given.id)) return null;
  if (typeof given.nodes !== 'object' || given.nodes === null) return null;
  const nodes = {};
  for (const [id, node] of Object.entries(given.nodes)) {
    if (!kRoles.includes(node?.role) || typeof node.content !== 'string') return null;
    if (node.parent !== null && !Object.hasOwn(given.nodes, node.parent)) return null;
    nodes[id] = { ...node, id };
  }
  // A parent that is its own descendant would never end.
  for (const start of Object.values(nodes)) {
    let steps = 0;
    for (let n = start; n.parent !== null; n = nodes[n.parent]) {
      if (++steps > Object.keys(nodes).length) return null;
    }
  }
  return {
    id: given.id,
    title: String(given.title ?? ''),
    created: Number(given.created) || 0,
    updated: Number(given.updated) || 0,
    settings: { ...kInitialSettings, ...given.settings },
    pick: given.pick ?? null,
    nodes,
  };
}

export function children_of(conversation, parent) {
  return Object.values(conversation.nodes).filter((node) => node.parent === parent);
}

// The messages that are shown, first to last.
export function path_of(conversation) {
  const path = [];
  let parent = null;
  let pick = conversation.pick;
  for (;;) {
    const children = children_of(conversation, parent);
    const node = children.find((child) => child.id === pick) ?? children.at(-1);
    if (!node) return path;
    path.push(node);
    parent = node.id;
    pick = node.pick;
  }
}

export function pick_node(conversation, node) {
  if (node.parent === null) conversation.pick = node.id;
  else conversation.nodes[node.parent].pick = node.id;
}

// Adds a message below `parent` (null: as a first one) and shows it.
export function add_node(conversation, parent, fields) {
  const node = { id: new_id(), parent, pick: null, time: Date.now(), content: '', ...fields };
  conversation.nodes[node.id] = node;
  pick_node(conversation, node);
  conversation.updated = Date.now();
  return node;
}
