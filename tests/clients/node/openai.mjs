// OpenAI's SDK, with tools its own runner over chat, and over Responses the loop that its documentation shows.
import OpenAI from "openai";
import { ABOUT, KEY, SCHEMA, TOOL, URL, main } from "./talk.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY });

async function chat(order) {
  const asked = { model: order.model, messages: [{ role: "user", content: order.prompt }], stream: order.stream };
  let seen = "";
  if (!order.tools) {
    const answer = await client.chat.completions.create(asked);
    if (!order.stream) return answer.choices[0].message.content;
    for await (const chunk of answer) seen += chunk.choices[0]?.delta.content ?? "";
    return seen;
  }
  const tool = {
    type: "function",
    function: { name: TOOL, description: ABOUT, parameters: SCHEMA, parse: JSON.parse, function: (got) => order.run(got.city) },
  };
  const runner = client.chat.completions.runTools({ ...asked, tools: [tool] });
  if (order.stream) runner.on("content", (piece) => (seen += piece));
  const last = await runner.finalContent();
  return seen || last;
}

async function responses(order) {
  const tools = order.tools ? [{ type: "function", name: TOOL, description: ABOUT, parameters: SCHEMA, strict: false }] : [];
  const input = [{ role: "user", content: order.prompt }];
  let seen = "";
  for (;;) {
    const asked = { model: order.model, input, tools };
    let answer;
    if (order.stream) {
      const stream = client.responses.stream(asked);
      for await (const event of stream) if (event.type === "response.output_text.delta") seen += event.delta;
      answer = await stream.finalResponse();
    } else {
      answer = await client.responses.create(asked);
    }
    if (answer.error) throw new Error(answer.error.message);
    const calls = answer.output.filter((item) => item.type === "function_call");
    if (!calls.length) return seen || answer.output_text;
    for (const call of calls) {
      const output = order.run(JSON.parse(call.arguments).city);
      input.push(call, { type: "function_call_output", call_id: call.call_id, output });
    }
  }
}

await main((order) => (order.dialect === "chat" ? chat(order) : responses(order)));
