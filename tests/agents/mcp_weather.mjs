// An MCP server with one tool, over standard input and output.
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { z } from 'zod';

const server = new McpServer({ name: 'weather', version: '1.0.0' });
server.registerTool(
  'get_weather',
  {
    description: 'Get the weather of a city',
    inputSchema: { city: z.string() },
    annotations: { readOnlyHint: true, openWorldHint: false },
  },
  async ({ city }) => ({ content: [{ type: 'text', text: `Seen from the tool: rain in ${city}.` }] }),
);
await server.connect(new StdioServerTransport());
