// Makes generated.json: what schema generators write, each with values that follow the schema.
// In a folder of its own: npm i zod3@npm:zod@3.25.76 zod4@npm:zod@4.6.7 zod-to-json-schema@3.25.2
// @sinclair/typebox@0.34.52, then: node generate.mjs > generated.json
import * as z3 from 'zod3';
import * as z4 from 'zod4';
import { zodToJsonSchema } from 'zod-to-json-schema';
import { Type as T } from '@sinclair/typebox';

const out = [];
const add = (name, schema, valid) => out.push({ name, schema, valid });
const uuid = '123e4567-e89b-42d3-a456-426614174000';

// The same shapes in both versions of zod.
function shapes(z, record) {
  const node = z.object({ name: z.string(), children: z.array(z.lazy(() => node)) });
  return {
    person: [z.object({ name: z.string().min(1).max(20), age: z.number().int().min(0).max(150),
      nick: z.string().nullable(), tags: z.array(z.string()).max(3).optional() }),
      [{ name: 'Ann', age: 7, nick: null }, { name: 'Bo', age: 150, nick: 'b', tags: ['x', 'y'] }]],
    email: [z.object({ a: z.string().email() }), [{ a: 'ann.b+c@example.com' }]],
    email_length: [z.object({ a: z.string().email().max(40) }), [{ a: 'ann@example.com' }]],
    uuid: [z.object({ a: z.string().uuid() }), [{ a: uuid }]],
    url: [z.object({ a: z.string().url() }), [{ a: 'https://example.com/a?b=c#d' }]],
    datetime: [z.object({ a: z.string().datetime() }), [{ a: '2024-02-29T23:59:59Z' }]],
    regex_length: [z.object({ a: z.string().regex(/^[a-z-]+$/).min(2).max(8) }), [{ a: 'ab-c' }]],
    password: [z.object({ a: z.string().regex(/^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{4,12}$/) }),
      [{ a: 'abC1' }, { a: '1Bcdefghij' }]],
    word_dash: [z.object({ a: z.string().regex(/^[\w-.]{1,5}$/) }), [{ a: 'a-.b' }]],
    numbers: [z.object({ a: z.number().positive(), b: z.number().lte(2.5), c: z.number().multipleOf(5),
      d: z.number().int() }), [{ a: 0.5, b: -2, c: 15, d: 12 }]],
    tuple: [z.object({ a: z.tuple([z.string(), z.number()]) }), [{ a: ['x', 1] }]],
    tuple_rest: [z.object({ a: z.tuple([z.string()]).rest(z.boolean()) }), [{ a: ['x'] }, { a: ['x', true, false] }]],
    record: [z.object({ a: record(z.string(), z.number()) }), [{ a: {} }, { a: { x: 1, 'y z': 2 } }]],
    record_enum: [z.object({ a: record(z.enum(['x', 'y']), z.boolean()) }), [{ a: { x: true, y: false } }]],
    union: [z.object({ a: z.union([z.string(), z.number(), z.array(z.null())]) }), [{ a: 'x' }, { a: 1 }, { a: [null] }]],
    discriminated: [z.object({ a: z.discriminatedUnion('kind', [
      z.object({ kind: z.literal('circle'), radius: z.number() }),
      z.object({ kind: z.literal('square'), side: z.number() })]) }),
      [{ a: { kind: 'circle', radius: 1 } }, { a: { kind: 'square', side: 2 } }]],
    intersection: [z.intersection(z.object({ a: z.string() }), z.object({ b: z.number() })), [{ a: 'x', b: 1 }]],
    recursive: [node, [{ name: 'a', children: [{ name: 'b', children: [] }] }]],
    enums: [z.object({ a: z.enum(['x', 'y']), b: z.literal(5), c: z.literal('z'), d: z.literal(true) }),
      [{ a: 'y', b: 5, c: 'z', d: true }]],
    nested: [z.object({ a: z.object({ b: z.object({ c: z.array(z.object({ d: z.boolean() })) }) }) }),
      [{ a: { b: { c: [{ d: true }] } } }]],
    passthrough: [z.object({ a: z.string() }).passthrough(), [{ a: 'x' }]],
    described: [z.object({ a: z.string().describe('a name').default('x') }).describe('all'), [{ a: 'x' }]],
    optional: [z.object({ a: z.string().optional(), b: z.number().nullish() }), [{}, { b: null }, { a: 'x', b: 1 }]],
  };
}
const three = shapes(z3.z, (k, v) => z3.z.record(k, v));
three.set = [z3.z.object({ a: z3.z.set(z3.z.enum(['x', 'y', 'z'])) }), [{ a: [] }, { a: ['z', 'x'] }]];
three.map = [z3.z.object({ a: z3.z.map(z3.z.string(), z3.z.number()) }), [{ a: [['x', 1]] }]];
for (const [name, [schema, valid]] of Object.entries(three)) {
  add(`zod 3, ${name}`, zodToJsonSchema(schema), valid);
  if (['person', 'numbers', 'optional', 'union', 'tuple'].includes(name)) {
    add(`zod 3 for OpenAPI 3, ${name}`, zodToJsonSchema(schema, { target: 'openApi3' }), valid);
    add(`zod 3 for OpenAI, ${name}`,
      zodToJsonSchema(schema, { target: 'openAi', name: 'answer', nameStrategy: 'title' }),
      name === 'optional' ? [] : name === 'person' ? [valid[1]] : valid);
  }
}
const z = z4.z;
const four = shapes(z, (k, v) => z.record(k, v));
Object.assign(four, {
  email4: [z.object({ a: z.email() }), [{ a: 'ann.b@example.com' }]],
  guid: [z.object({ a: z.guid() }), [{ a: uuid }]],
  formats: [z.object({ a: z.ipv4(), c: z.base64(), d: z.e164(), e: z.iso.date(), f: z.iso.time(),
    g: z.ulid(), h: z.nanoid(), i: z.cuid2(), k: z.cidrv4() }),
    [{ a: '10.0.0.1', c: 'YWJj', d: '+4712345678', e: '2024-02-29', f: '12:30:00',
      g: '01ARZ3NDEKTSV4RRFFQ69G5FAV', h: 'V1StGXR8_Z5jdHi6B-myT', i: 'tz4a98xxat96iws9zmbrgj3a', k: '10.0.0.0/8' }]],
  int32: [z.object({ a: z.int32(), b: z.uint32(), c: z.int(), d: z.float32(), e: z.float64() }),
    [{ a: -5, b: 5, c: 9007199254740991, d: 1.5, e: -2.5 }]],
  partial_record: [z.object({ a: z.partialRecord(z.enum(['x', 'y']), z.number()) }), [{ a: {} }, { a: { y: 1 } }]],
  never: [z.object({ a: z.array(z.never()) }), [{ a: [] }]],
  template: [z.object({ a: z.templateLiteral(['id-', z.number()]) }), [{ a: 'id-12' }]],
  literals: [z.object({ a: z.literal(['x', 1, null]) }), [{ a: 1 }, { a: null }]],
  strict: [z.strictObject({ a: z.string() }), [{ a: 'x' }]],
  loose: [z.looseObject({ a: z.string() }), [{ a: 'x' }]],
  catchall: [z.object({ a: z.string() }).catchall(z.number()), [{ a: 'x' }]],
  registry: [z.object({ a: z.string() }).meta({ id: 'Thing', title: 'thing' }), [{ a: 'x' }]],
});
for (const [name, [schema, valid]] of Object.entries(four)) {
  add(`zod 4, ${name}`, z.toJSONSchema(schema), valid);
  if (['tuple', 'tuple_rest', 'record', 'record_enum'].includes(name))
    add(`zod 4 for draft 7, ${name}`, z.toJSONSchema(schema, { target: 'draft-7' }), valid);
}

const plain = (schema) => JSON.parse(JSON.stringify(schema));
const box = (name, schema, valid) => add(`TypeBox, ${name}`, plain(schema), valid);
box('object', T.Object({ a: T.String({ minLength: 1 }), b: T.Optional(T.Integer({ minimum: 0 })) }), [{ a: 'x' }, { a: 'x', b: 0 }]);
box('record', T.Record(T.String(), T.Number()), [{}, { x: 1 }]);
box('record of numbers', T.Record(T.Number(), T.String()), [{ 0: 'a', 12: 'b' }]);
box('record of literals', T.Record(T.Union([T.Literal('a'), T.Literal('b')]), T.Null()), [{ a: null, b: null }]);
box('tuple', T.Tuple([T.String(), T.Boolean()]), [['x', true]]);
box('empty tuple', T.Object({ a: T.Tuple([]) }), [{ a: [] }]);
box('union', T.Union([T.Literal('a'), T.Literal(2), T.Null()]), ['a', 2, null]);
box('intersect', T.Intersect([T.Object({ a: T.String() }), T.Object({ b: T.Number() })], { unevaluatedProperties: false }), [{ a: 'x', b: 1 }]);
box('composite', T.Composite([T.Object({ a: T.String() }), T.Object({ b: T.Number() })]), [{ a: 'x', b: 1 }]);
box('recursive', T.Recursive((This) => T.Object({ id: T.String(), nodes: T.Array(This) }), { $id: 'Node' }), [{ id: 'a', nodes: [{ id: 'b', nodes: [] }] }]);
box('unique', T.Array(T.Union([T.Literal('a'), T.Literal('b')]), { uniqueItems: true }), [[], ['b', 'a']]);
box('template', T.TemplateLiteral('a-${1|2}'), ['a-1']);
box('partial', T.Partial(T.Object({ a: T.String(), b: T.Date() })), [{ a: 'x' }]);
box('not', T.Object({ a: T.Not(T.Unknown()) }), []);
box('enum', T.Enum({ A: 'a', B: 1 }), ['a', 1]);
box('module', T.Module({ Pair: T.Object({ left: T.Ref('Leaf'), right: T.Ref('Leaf') }), Leaf: T.Integer() }).Import('Pair'), [{ left: 1, right: 2 }]);

// What is left out where it is not asked for strictly.
for (const e of out) if (e.name === 'TypeBox, partial') e.loose = "the type Date is TypeBox's own";

console.log('[\n' + out.map((e) => JSON.stringify(e)).join(',\n') + '\n]');
