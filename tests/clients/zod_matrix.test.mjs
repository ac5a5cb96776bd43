// Shapes of zod 3 and of zod 4, as the clients turn them into schemas: openai's helpers over chat
// and responses, strict as they are, and the AI SDK. The answer is parsed by the shape itself.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject } from 'ai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z as z4 } from 'zod';
import { z as z3 } from 'zod3';
import * as h from './helpers.mjs';

const served = h.serve();

// Small values alone, so that answers end.
function shapes_of(z) {
  const kind = z.enum(['cat', 'dog']);
  const leaf = z.object({ kind, good: z.boolean() });
  const tree = z.object({ kind, inside: z.array(z.lazy(() => tree)).max(1) });
  return {
    enums: z.object({ kind, five: z.literal(5), yes: z.literal(true), none: z.null() }),
    numbers: z.object({
      age: z.number().int().min(0).max(150),
      share: z.number().gt(0).lte(0.5),
      step: z.number().multipleOf(5).min(0).max(95),
    }),
    text: z.object({ name: z.string().min(1).max(8), word: z.string().regex(/^[\w-.]{1,5}$/) }),
    password: z.object({ word: z.string().regex(/^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{4,8}$/) }),
    email: z.object({ mail: z.string().email().max(30) }),
    formats: z.object({ id: z.string().uuid(), at: z.string().datetime({ offset: true }), ip: z.string().ip?.() ?? z.ipv4() }),
    nullable: z.object({ kind: kind.nullable(), age: z.number().int().max(9).min(0).nullable() }),
    lists: z.object({ all: z.array(kind).min(1).max(2), nested: z.array(z.array(leaf).max(1)).max(1) }),
    union: z.object({ value: z.union([kind, z.number().int().min(0).max(9), z.array(z.null()).max(1)]) }),
    discriminated: z.object({
      pet: z.discriminatedUnion('kind', [
        z.object({ kind: z.literal('cat'), lives: z.number().int().min(1).max(9) }),
        z.object({ kind: z.literal('dog'), good: z.boolean() }),
      ]),
    }),
    shared: z.object({ one: leaf, two: leaf, three: leaf.nullable() }),
    recursive: tree,
    described: z.object({ kind: kind.describe('Which animal it is') }).describe('An animal'),
  };
}

const ask = { model: h.model, temperature: 0 };
// An answer that the limit cut has nothing to parse.
const fits = (shape, text, cut) => cut || shape.parse(JSON.parse(text));

for (const [version, z] of [
  ['3', z3],
  ['4', z4],
]) {
  const shapes = Object.entries(shapes_of(z));

  test(`openai's helpers with zod ${version}, chat`, async () => {
    let cut = 0;
    for (const [name, shape] of shapes) {
      const reply = await served.openai.chat.completions.create({
        ...ask,
        max_completion_tokens: 120,
        messages: h.needle,
        response_format: zodResponseFormat(shape, name),
      });
      const [{ message, finish_reason }] = reply.choices;
      cut += finish_reason === 'length';
      fits(shape, message.content, finish_reason === 'length');
    }
    assert.ok(cut <= 2, `${cut} answers were cut`);
  });

  test(`openai's helpers with zod ${version}, responses`, async () => {
    for (const name of ['numbers', 'discriminated', 'recursive', 'nullable']) {
      const shape = shapes_of(z)[name];
      const reply = await served.openai.responses.parse({
        ...ask,
        max_output_tokens: 120,
        input: h.needle,
        text: { format: zodTextFormat(shape, name) },
      });
      assert.equal(reply.status, 'completed');
      shape.parse(reply.output_parsed);
    }
  });

  test(`openai's helpers with zod ${version}, a call`, async () => {
    for (const name of ['enums', 'lists', 'discriminated']) {
      const shape = shapes_of(z)[name];
      const reply = await served.openai.chat.completions.parse({
        ...ask,
        max_completion_tokens: 200,
        messages: h.needle,
        tools: [zodFunction({ name, parameters: shape })],
        tool_choice: 'required',
        parallel_tool_calls: false,
      });
      const [call] = reply.choices[0].message.tool_calls;
      assert.equal(call.function.name, name);
      shape.parse(call.function.parsed_arguments);
    }
  });

  test(`the AI SDK with zod ${version}`, async () => {
    const provider = createOpenAICompatible({
      name: 'fathom',
      baseURL: `${served.url}/v1`,
      apiKey: 'none',
      supportsStructuredOutputs: true,
    });
    for (const name of ['discriminated', 'union', 'shared']) {
      const { object } = await generateObject({
        model: provider(h.model),
        schema: shapes_of(z)[name],
        temperature: 0,
        maxOutputTokens: 120,
        maxRetries: 0,
        prompt: h.question,
      });
      shapes_of(z)[name].parse(object);
    }
  });
}
