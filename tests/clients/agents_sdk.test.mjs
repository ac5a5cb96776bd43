// Frameworks for agents over the OpenAI endpoints: a tool is offered, called, run by the client, and
// its result sent back.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { HumanMessage } from '@langchain/core/messages';
import { tool as langchain_tool } from '@langchain/core/tools';
import { ChatOpenAI } from '@langchain/openai';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import {
  Agent,
  OpenAIChatCompletionsModel,
  OpenAIResponsesModel,
  run,
  setTracingDisabled,
  tool as agents_tool,
} from '@openai/agents';
import { generateText, stepCountIs, streamText, tool as ai_tool } from 'ai';
import { z } from 'zod';
import * as h from './helpers.mjs';

const served = h.serve();
setTracingDisabled(true); // it would be sent to OpenAI

const description = 'Get the weather of a city';
const parameters = z.object({ city: z.string() });

// A tool that counts: `calls` are the cities it was asked for.
function weather() {
  const calls = [];
  const execute = async ({ city }) => {
    calls.push(city);
    return `It rains in ${city}.`;
  };
  return { calls, execute };
}

for (const [api, Model] of [
  ['chat', OpenAIChatCompletionsModel],
  ['responses', OpenAIResponsesModel],
]) {
  test(`Agents SDK over ${api}: a tool round trip`, async () => {
    const { calls, execute } = weather();
    const agent = new Agent({
      name: 'Weather',
      instructions: 'You report the weather.',
      model: new Model(served.openai, h.model),
      modelSettings: { temperature: 0, toolChoice: 'required' },
      tools: [agents_tool({ name: 'get_weather', description, parameters, execute })],
    });
    // Behind the first call the SDK lets the model choose again.
    const result = await run(agent, h.weather_question, { maxTurns: 4 });
    assert.equal(calls[0], 'Paris');
    assert.equal(typeof result.finalOutput, 'string');
    assert.ok(result.rawResponses.length >= 2);
  });

  test(`Agents SDK over ${api}: a stream`, async () => {
    const agent = new Agent({
      name: 'Keys',
      model: new Model(served.openai, h.model),
      modelSettings: { temperature: 0 },
    });
    const result = await run(agent, `${h.fact} ${h.question}`, { stream: true });
    let text = '';
    for await (const piece of result.toTextStream()) text += piece;
    await result.completed;
    assert.equal(text, h.answer);
    assert.equal(result.finalOutput, h.answer);
  });
}

const providers = {
  'openai (responses)': () =>
    createOpenAI({ baseURL: `${served.url}/v1`, apiKey: 'none' }).responses(h.model),
  'openai (chat)': () => createOpenAI({ baseURL: `${served.url}/v1`, apiKey: 'none' }).chat(h.model),
  'openai-compatible': () =>
    createOpenAICompatible({ name: 'fathom', baseURL: `${served.url}/v1`, apiKey: 'none' })(h.model),
  anthropic: () => createAnthropic({ baseURL: `${served.url}/v1`, apiKey: 'none' })(h.model),
};
for (const [name, model] of Object.entries(providers)) {
  test(`AI SDK with ${name}: text, whole and streamed`, async () => {
    const ask = { temperature: 0, maxRetries: 0, prompt: `${h.fact} ${h.question}` };
    const whole = await generateText({ ...ask, model: model() });
    assert.equal(whole.text, h.answer);
    assert.equal(whole.finishReason, 'stop');
    const streamed = streamText({ ...ask, model: model() });
    let text = '';
    for await (const piece of streamed.textStream) text += piece;
    assert.equal(text, h.answer);
  });

  test(`AI SDK with ${name}: a tool round trip`, async () => {
    const { calls, execute } = weather();
    const result = await generateText({
      model: model(),
      temperature: 0,
      maxRetries: 0,
      maxOutputTokens: 60,
      prompt: h.weather_question,
      tools: { get_weather: ai_tool({ description, inputSchema: parameters, execute }) },
      stopWhen: stepCountIs(2),
    });
    assert.deepEqual(calls.slice(0, 1), ['Paris']);
    assert.equal(result.steps.length, 2);
    assert.equal(result.steps[0].finishReason, 'tool-calls');
    assert.equal(result.steps[0].toolResults[0].output, 'It rains in Paris.');
  });
}

test('LangChain: a tool round trip, and a stream', async () => {
  const { calls, execute } = weather();
  const model = new ChatOpenAI({
    model: h.model,
    temperature: 0,
    maxRetries: 0,
    maxTokens: 60,
    apiKey: 'none',
    configuration: { baseURL: `${served.url}/v1` },
  });
  const get_weather = langchain_tool(execute, {
    name: 'get_weather',
    description,
    schema: parameters,
  });
  const messages = [new HumanMessage(h.weather_question)];
  const asked = await model.bindTools([get_weather]).invoke(messages);
  assert.deepEqual(
    asked.tool_calls.map(({ name, args }) => ({ name, args })),
    [{ name: 'get_weather', args: { city: 'Paris' } }],
  );
  messages.push(asked, await get_weather.invoke(asked.tool_calls[0]));
  assert.deepEqual(calls, ['Paris']);
  const answered = await model.bindTools([get_weather]).invoke(messages);
  assert.equal(answered._getType(), 'ai');
  let text = '';
  for await (const chunk of await model.stream([new HumanMessage(`${h.fact} ${h.question}`)]))
    text += chunk.content;
  assert.equal(text, h.answer);
});

test('MCP: tools of a server are offered, called and answered', async () => {
  const { calls, execute } = weather();
  const server = new McpServer({ name: 'weather', version: '1.0.0' });
  server.registerTool('get_weather', { description, inputSchema: parameters.shape }, async (args) => ({
    content: [
      { type: 'text', text: await execute(args) },
      { type: 'image', data: 'AAAA', mimeType: 'image/png' },
    ],
  }));
  const client = new Client({ name: 'test', version: '1.0.0' });
  const [near, far] = InMemoryTransport.createLinkedPair();
  await Promise.all([server.connect(far), client.connect(near)]);
  const { tools } = await client.listTools();
  // As agents send them: the schema as the server generated it, in a namespace of its own.
  const ask = {
    model: h.model,
    temperature: 0,
    max_output_tokens: 100,
    tools: [
      {
        type: 'namespace',
        name: 'mcp__weather',
        description: 'Weather tools',
        tools: tools.map((t) => ({
          type: 'function',
          name: t.name,
          description: t.description,
          strict: false,
          parameters: t.inputSchema,
        })),
      },
    ],
  };
  const input = [{ role: 'user', content: h.weather_question }];
  const first = await served.openai.responses.create({ ...ask, input, tool_choice: 'required' });
  const call = first.output.find((item) => item.type === 'function_call');
  assert.equal(call.name, 'get_weather');
  assert.equal(call.namespace, 'mcp__weather');
  const result = await client.callTool({ name: call.name, arguments: JSON.parse(call.arguments) });
  assert.equal(calls.length, 1);
  const output = result.content.map((part) =>
    part.type === 'text'
      ? { type: 'input_text', text: part.text }
      : { type: 'input_image', image_url: `data:${part.mimeType};base64,${part.data}` },
  );
  const second = await served.openai.responses.create({
    ...ask,
    input: [...input, call, { type: 'function_call_output', call_id: call.call_id, output }],
  });
  assert.ok(['completed', 'incomplete'].includes(second.status), second.status);
  await client.close();
});
