// Anthropic's SDK, with tools its own runner.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { ABOUT, KEY, SCHEMA, TOOL, URL, main } from "./talk.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: KEY });
const text = (message) => message.content.map((block) => block.text ?? "").join("");

async function ask(order) {
  const asked = { model: order.model, max_tokens: 100, messages: [{ role: "user", content: order.prompt }] };
  let seen = "";
  if (!order.tools) {
    if (!order.stream) return text(await client.messages.create(asked));
    for await (const event of client.messages.stream(asked)) seen += event.delta?.text ?? "";
    return seen;
  }
  const tool = betaTool({ name: TOOL, description: ABOUT, inputSchema: SCHEMA, run: (got) => order.run(got.city) });
  const runner = client.beta.messages.toolRunner({ ...asked, tools: [tool], stream: order.stream });
  if (!order.stream) return text(await runner);
  for await (const turn of runner) for await (const event of turn) seen += event.delta?.text ?? "";
  return seen;
}

await main(ask);
