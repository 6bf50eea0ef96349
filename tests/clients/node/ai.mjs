// The Vercel AI SDK: generateText and streamText run tools by themselves; generateObject and streamObject make objects.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, jsonSchema, stepCountIs, streamObject, streamText, tool } from "ai";
import { ABOUT, KEY, SCHEMA, TOOL, URL, main } from "./talk.mjs";

const openai = createOpenAI({ baseURL: `${URL}/v1`, apiKey: KEY });
const anthropic = createAnthropic({ baseURL: `${URL}/v1`, apiKey: KEY });
const models = { chat: openai.chat, responses: openai.responses, messages: anthropic };

async function made(order) {
  const asked = { model: models[order.dialect](order.model), prompt: order.prompt, schema: jsonSchema(SCHEMA) };
  if (!order.stream) return order.run((await generateObject(asked)).object.city);
  let failure;
  const stream = streamObject({ ...asked, onError: ({ error }) => (failure = error) });
  for await (const part of stream.fullStream) if (part.type === "error") failure = part.error;
  if (failure) throw failure;
  return order.run((await stream.object).city);
}

async function ask(order) {
  if (order.object) return made(order);
  const get_weather = tool({ description: ABOUT, inputSchema: jsonSchema(SCHEMA), execute: async (got) => order.run(got.city) });
  const asked = {
    model: models[order.dialect](order.model),
    prompt: order.prompt,
    stopWhen: stepCountIs(4),
    ...(order.tools ? { tools: { [TOOL]: get_weather } } : {}),
  };
  if (!order.stream) return (await generateText(asked)).text;
  let seen = "";
  let failure;
  const stream = streamText({ ...asked, onError: ({ error }) => (failure = error) });
  for await (const part of stream.fullStream) {
    if (part.type === "text-delta") seen += part.text;
    if (part.type === "error") failure = part.error;
  }
  if (failure) throw Object.assign(failure instanceof Error ? failure : new Error(JSON.stringify(failure)), { message: `${seen}${failure.message ?? JSON.stringify(failure)}` });
  return seen;
}

await main(ask);
